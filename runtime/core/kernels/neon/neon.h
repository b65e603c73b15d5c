/* The NEON kernels that have files of their own: baseline (all of aarch64, and armv7 with NEON), dotprod and i8mm. */
#ifndef EDGE_KERNELS_NEON_H
#define EDGE_KERNELS_NEON_H

#include "kernels/kernels.h"

#if defined(__aarch64__) || (defined(__arm__) && __ARM_ARCH >= 7 && __ARM_ARCH_PROFILE == 'A' && defined(__ARM_FP))
#define EDGE_HAS_NEON
#endif

extern const edge_kernels edge_kernels_neon;
extern const edge_kernels edge_kernels_neon_dotprod;
extern const edge_kernels edge_kernels_neon_i8mm;

#define EDGE_QD8_GEMM(kernel, isa)                                                           \
  size_t edge_##kernel##_packed_bytes__##isa(size_t n, size_t k);                            \
  void edge_##kernel##_pack__##isa(size_t n, size_t k, const uint8_t *weight, void *packed); \
  void edge_##kernel##_gemm__##isa(const edge_qd8_gemm *gemm, size_t first, size_t last);
EDGE_QD8_GEMM(qd8_f32_qc2w, neon)
EDGE_QD8_GEMM(qd8_f32_qc4w, neon)
EDGE_QD8_GEMM(qd8_f32_qc8w, neon)
EDGE_QD8_GEMM(qd8_f32_qc2w, neon_dotprod)
EDGE_QD8_GEMM(qd8_f32_qc4w, neon_dotprod)
EDGE_QD8_GEMM(qd8_f32_qc8w, neon_dotprod)
EDGE_QD8_GEMM(qd8_f32_qc2w, neon_i8mm)
EDGE_QD8_GEMM(qd8_f32_qc4w, neon_i8mm)
EDGE_QD8_GEMM(qd8_f32_qc8w, neon_i8mm)
#undef EDGE_QD8_GEMM

#endif
