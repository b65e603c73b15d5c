/* The NEON kernels that have files of their own: baseline (all of aarch64, and armv7 with NEON), dotprod and i8mm. */
#ifndef EDGE_KERNELS_NEON_H
#define EDGE_KERNELS_NEON_H

#include "kernels/simd/entries.h"

#if defined(__aarch64__) || (defined(__arm__) && __ARM_ARCH >= 7 && __ARM_ARCH_PROFILE == 'A' && defined(__ARM_FP))
#define EDGE_HAS_NEON
#endif

extern const edge_kernels edge_kernels_neon;
extern const edge_kernels edge_kernels_neon_dotprod;
extern const edge_kernels edge_kernels_neon_i8mm;

EDGE_DECLARE_GEMM(qd8_f32_qc2w, neon)
EDGE_DECLARE_GEMM(qd8_f32_qc4w, neon)
EDGE_DECLARE_GEMM(qd8_f32_qc8w, neon)
EDGE_DECLARE_GEMM(qd8_f32_qc2w, neon_dotprod)
EDGE_DECLARE_GEMM(qd8_f32_qc4w, neon_dotprod)
EDGE_DECLARE_GEMM(qd8_f32_qc8w, neon_dotprod)
EDGE_DECLARE_GEMM(qd8_f32_qc2w, neon_i8mm)
EDGE_DECLARE_GEMM(qd8_f32_qc4w, neon_i8mm)
EDGE_DECLARE_GEMM(qd8_f32_qc8w, neon_i8mm)
EDGE_DECLARE_CONV2D(neon)
EDGE_DECLARE_CONV2D(neon_dotprod)
EDGE_DECLARE_ATTENTION(neon)
EDGE_DECLARE_ATTENTION(neon_dotprod)

#endif
