/* The AVX-512 kernels that have files of their own. */
#ifndef EDGE_KERNELS_AVX512VNNI_H
#define EDGE_KERNELS_AVX512VNNI_H

#include "kernels/kernels.h"

extern const edge_kernels edge_kernels_avx512vnni;

size_t edge_qd8_f32_qc2w_packed_bytes__avx512vnni(size_t n, size_t k);
void edge_qd8_f32_qc2w_pack__avx512vnni(size_t n, size_t k, const uint8_t *weight, void *packed);
void edge_qd8_f32_qc2w_gemm__avx512vnni(const edge_qd8_gemm *gemm, size_t first, size_t last);

#endif
