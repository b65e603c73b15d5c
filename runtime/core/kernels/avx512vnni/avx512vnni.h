/* The AVX-512 kernels that have files of their own. */
#ifndef EDGE_KERNELS_AVX512VNNI_H
#define EDGE_KERNELS_AVX512VNNI_H

#include "kernels/simd/entries.h"

extern const edge_kernels edge_kernels_avx512vnni;

EDGE_DECLARE_GEMM(qd8_f32_qc2w, avx512vnni)
EDGE_DECLARE_GEMM(qd8_f32_qc4w, avx512vnni)
EDGE_DECLARE_GEMM(qd8_f32_qc8w, avx512vnni)
EDGE_DECLARE_CONV2D(avx512vnni)
EDGE_DECLARE_ATTENTION(avx512vnni)

#endif
