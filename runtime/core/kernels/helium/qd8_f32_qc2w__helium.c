/* int8 activations times ternary weights in layout `planes`, sixteen columns of an output a vector.
 *
 * Sixteen bytes are 64 columns: each 2-bit field of them is one vector of codes w + 1 for sixteen neighbouring columns,
 * so a shift and a mask unpack it. Four outputs share the activations; what the added ones contribute, the sum of the
 * activations, is taken off at the end.
 */
#include "kernels/helium/helium.h"

#if defined(EDGE_HAS_HELIUM)

#include <arm_mve.h>

#include "kernels/micro/finish.h"

#define OUTPUTS_AT_ONCE 64

/* Adds to *sum the product of the four planes of w and of x. */
#define ADD(sum, w)                                                    \
  do {                                                                 \
    sum = vmladavaq_s8(sum, vreinterpretq_s8_u8(vandq_u8(w, three)), x0);                    \
    sum = vmladavaq_s8(sum, vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(w, 2), three)), x1);     \
    sum = vmladavaq_s8(sum, vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(w, 4), three)), x2);     \
    sum = vmladavaq_s8(sum, vreinterpretq_s8_u8(vshrq_n_u8(w, 6)), x3);                      \
  } while (0)

/* `count` outputs, at most four; rows of weights are `bytes` long, and the codes' sum is `total`. */
static inline void multiply(size_t count, size_t k, size_t bytes, const uint8_t *weight, const int8_t *codes,
                            int32_t total, int32_t *sums) {
  const uint8x16_t three = vdupq_n_u8(3);
  const uint8_t *a = weight, *b = count > 1 ? a + bytes : a, *c = count > 2 ? b + bytes : a;
  const uint8_t *d = count > 3 ? c + bytes : a;
  int32_t sum_a = -total, sum_b = -total, sum_c = -total, sum_d = -total;
  size_t left = k;
  for (; left >= 64; left -= 64, codes += 64, a += 16, b += 16, c += 16, d += 16) {
    const int8x16_t x0 = vld1q_s8(codes), x1 = vld1q_s8(codes + 16);
    const int8x16_t x2 = vld1q_s8(codes + 32), x3 = vld1q_s8(codes + 48);
    uint8x16_t w = vld1q_u8(a);
    ADD(sum_a, w);
    w = vld1q_u8(b);
    ADD(sum_b, w);
    w = vld1q_u8(c);
    ADD(sum_c, w);
    w = vld1q_u8(d);
    ADD(sum_d, w);
  }
  if (left > 0) {
    const size_t lanes = (left + 3) / 4;
    const mve_pred16_t there = vctp8q((uint32_t)lanes);
    const int8x16_t x0 = vldrbq_z_s8(codes, there), x1 = vldrbq_z_s8(codes + lanes, there);
    const int8x16_t x2 = vldrbq_z_s8(codes + 2 * lanes, there), x3 = vldrbq_z_s8(codes + 3 * lanes, there);
    uint8x16_t w = vldrbq_z_u8(a, there);
    ADD(sum_a, w);
    w = vldrbq_z_u8(b, there);
    ADD(sum_b, w);
    w = vldrbq_z_u8(c, there);
    ADD(sum_c, w);
    w = vldrbq_z_u8(d, there);
    ADD(sum_d, w);
  }
  sums[0] = sum_a;
  if (count > 1) sums[1] = sum_b;
  if (count > 2) sums[2] = sum_c;
  if (count > 3) sums[3] = sum_d;
}

void edge_qd8_f32_qc2w_gemm__helium(const edge_qd8_gemm *gemm, size_t first, size_t last) {
  const size_t bytes = (gemm->k + 3) / 4;
  for (size_t r = 0; r < gemm->rows; ++r) {
    const int8_t *codes = gemm->codes + r * gemm->padded;
    int32_t total = 0;
    for (size_t i = 0; i < gemm->padded; i += 16) total = vaddvaq_s8(total, vld1q_s8(codes + i));
    for (size_t o = first, count; o < last; o += count) {
      count = last - o < OUTPUTS_AT_ONCE ? last - o : OUTPUTS_AT_ONCE;
      int32_t sums[OUTPUTS_AT_ONCE];
      const uint8_t *weight = (const uint8_t *)gemm->weight + o * bytes;
      size_t i = 0;
      for (; i + 4 <= count; i += 4) multiply(4, gemm->k, bytes, weight + i * bytes, codes, total, sums + i);
      if (i < count) multiply(count - i, gemm->k, bytes, weight + i * bytes, codes, total, sums + i);
      edge_micro_finish(gemm, r, o, count, sums, 0);
    }
  }
}

#endif
