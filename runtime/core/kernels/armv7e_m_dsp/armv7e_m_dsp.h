/* Kernels for Cortex-M4, M7 and M33 with the DSP extension: SMLAD on ternary weights in layout `pairs` (layouts.h). */
#ifndef EDGE_KERNELS_ARMV7E_M_DSP_H
#define EDGE_KERNELS_ARMV7E_M_DSP_H

#include "kernels/kernels.h"

#if defined(EDGE_BARE_METAL) && defined(__ARM_FEATURE_DSP) && !defined(__ARM_FEATURE_MVE)
#define EDGE_HAS_ARMV7E_M_DSP 1

extern const edge_kernels edge_kernels_armv7e_m_dsp;

void edge_qd8_f32_qc2w_gemm__armv7e_m_dsp(const edge_qd8_gemm *gemm, size_t first, size_t last);/* Two bytes that lie two apart, as signed half words: 0 and 2, or 1 and 3. */
static inline uint32_t edge_sxtb16(uint32_t word) {
  uint32_t halves;
  __asm__("sxtb16 %0, %1" : "=r"(halves) : "r"(word));
  return halves;
}
static inline uint32_t edge_sxtb16_ror8(uint32_t word) {
  uint32_t halves;
  __asm__("sxtb16 %0, %1, ror #8" : "=r"(halves) : "r"(word));
  return halves;
}
/* sum + the products of both pairs of half words */
static inline int32_t edge_smlad(uint32_t a, uint32_t b, int32_t sum) {
  int32_t result;
  __asm__("smlad %0, %1, %2, %3" : "=r"(result) : "r"(a), "r"(b), "r"(sum));
  return result;
}

#endif
#endif
