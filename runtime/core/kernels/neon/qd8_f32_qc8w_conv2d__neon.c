/* int8 convolutions with SMULL and SADALP; the contract is that of scalar/qd8_f32_qc8w_conv2d.c. See simd/qd8_dense.h for the layout of
 * weights and what a tile is. */
#include "kernels/neon/neon.h"

#if defined(__aarch64__)

#include "kernels/neon/targets.h"
#include "kernels/neon/vector__neon.h"
#include "kernels/scalar/scalar.h"

#define DENSE_OFFSET 0
#define DENSE_ROWS 2
#define KEY_STEP 2
#define PART_STEP 2
#define HEAD_ROWS 4
#define HEAD_VECTORS 1
#define DEPTHWISE_VECTORS 1

#include "kernels/simd/math.h"
/* in this order */
#include "kernels/simd/finish.h"
/* each on the one before */
#include "kernels/simd/qd8_dense.h"
/* and the last */
#include "kernels/simd/qd8_conv2d.h"
/* beside it */
#include "kernels/simd/qd8_attention.h"

/* Two products of a quad, and the two others, fit 16 bits together, because no code is -128. */
EDGE_INLINE int32x4_t dot_of_four(int32x4_t sum, int32x4_t quads, int32x4_t w) {
  const int8x16_t x = vreinterpretq_s8_s32(quads), y = vreinterpretq_s8_s32(w);
  return vpadalq_s16(sum, vpaddq_s16(vmull_s8(vget_low_s8(x), vget_low_s8(y)), vmull_high_s8(x, y)));
}
EDGE_INLINE vi vi_dot(vi sum, vi quads, vi w) {
  return (vi){dot_of_four(sum.a, quads.a, w.a), dot_of_four(sum.b, quads.b, w.b), dot_of_four(sum.c, quads.c, w.c),
              dot_of_four(sum.d, quads.d, w.d)};
}

/* Eight products at a time, of two outputs: the sum of two fits 16 bits, because no code is -128. */
EDGE_INLINE void sixteen_outputs(const size_t rows, const dense_runs *runs, const int32_t *start, const int8_t *weight,
                                 const int8_t *const *row, int32_t *sums) {
  int32x4_t sum[DENSE_ROWS][8]; /* of two outputs, each in two halves */
  EDGE_UNROLL
  for (size_t r = 0; r < rows; ++r) {
    EDGE_UNROLL
    for (size_t i = 0; i < 8; ++i) sum[r][i] = vdupq_n_s32(0);
  }
  for (size_t d = 0; d < runs->down; ++d) {
    for (size_t a = 0; a < runs->across; ++a) {
      const size_t at = d * runs->down_step + a * runs->across_step;
      for (size_t q = 0; q < runs->quads; ++q, weight += EDGE_PANEL * 4) {
        int8x16_t w[4];
        EDGE_UNROLL
        for (size_t i = 0; i < 4; ++i) w[i] = vld1q_s8(weight + 16 * i);
        EDGE_UNROLL
        for (size_t r = 0; r < rows; ++r) {
          int32_t four;
          memcpy(&four, row[r] + at + 4 * q, sizeof four);
          const int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(four));
          EDGE_UNROLL
          for (size_t i = 0; i < 4; ++i) {
            sum[r][2 * i] = vpadalq_s16(sum[r][2 * i], vmull_s8(vget_low_s8(w[i]), vget_low_s8(x)));
            sum[r][2 * i + 1] = vpadalq_s16(sum[r][2 * i + 1], vmull_high_s8(w[i], x));
          }
        }
      }
    }
  }
  EDGE_UNROLL
  for (size_t r = 0; r < rows; ++r) {
    EDGE_UNROLL
    for (size_t i = 0; i < 4; ++i) {
      const int32x4_t four = vpaddq_s32(sum[r][2 * i], sum[r][2 * i + 1]);
      vst1q_s32(sums + r * EDGE_PANEL + 4 * i, vaddq_s32(vld1q_s32(start + 4 * i), four));
    }
  }
}

EDGE_INLINE void dense_tile(const size_t rows, const size_t groups, const dense_runs *runs, const int32_t *start,
                            const int8_t *weight, const int8_t *const *row, int32_t *sums) {
  for (size_t g = 0; g < groups; ++g) {
    sixteen_outputs(rows, runs, start + 16 * g, weight + 64 * g, row, sums + 16 * g);
  }
}

#endif
