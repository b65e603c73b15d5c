/* The AVX2 kernels that have files of their own. */
#ifndef EDGE_KERNELS_AVX2_H
#define EDGE_KERNELS_AVX2_H

#include "kernels/simd/entries.h"

extern const edge_kernels edge_kernels_avx2;

EDGE_DECLARE_GEMM(qd8_f32_qc2w, avx2)
EDGE_DECLARE_GEMM(qd8_f32_qc4w, avx2)
EDGE_DECLARE_GEMM(qd8_f32_qc8w, avx2)
EDGE_DECLARE_CONV2D(avx2)
EDGE_DECLARE_CONV2D_AS(winograd, avx2)
EDGE_DECLARE_ATTENTION(avx2)

#endif
