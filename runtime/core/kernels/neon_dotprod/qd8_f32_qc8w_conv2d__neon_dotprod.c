/* int8 convolutions with SDOT; the contract is that of scalar/qd8_f32_qc8w_conv2d.c. See simd/qd8_dense.h for the layout of
 * weights and what a tile is. */
#include "kernels/neon/neon.h"

#if defined(__aarch64__)

#include "kernels/neon/targets.h"
#include "kernels/neon/vector__neon.h"
#include "kernels/scalar/scalar.h"

#define DENSE_OFFSET 0
#define DENSE_ROWS 4
#define KEY_STEP 4
#define PART_STEP 4
#define HEAD_ROWS 4
#define HEAD_VECTORS 1
#define DEPTHWISE_VECTORS 1

#undef EDGE_SIMD
#define EDGE_SIMD(name) name##__neon_dotprod

EDGE_DOTPROD_BEGIN

EDGE_INLINE vi vi_add_quads(vi sum, vs values, vs four) {
  const int8x16_t x = vreinterpretq_s8_s16(four.a);
  return (vi){vdotq_s32(sum.a, vreinterpretq_s8_s16(values.a), x), vdotq_s32(sum.b, vreinterpretq_s8_s16(values.b), x),
              vdotq_s32(sum.c, vreinterpretq_s8_s16(values.c), x), vdotq_s32(sum.d, vreinterpretq_s8_s16(values.d), x)};
}

#include "kernels/simd/math.h"
/* in this order */
#include "kernels/simd/finish.h"
/* each on the one before */
#include "kernels/simd/qd8_dense.h"
/* and the last */
#include "kernels/simd/qd8_conv2d.h"
/* beside it */
#include "kernels/simd/qd8_attention.h"

EDGE_INLINE int8x16_t broadcast_quad(const int8_t *codes) {
  int32_t four;
  memcpy(&four, codes, sizeof four);
  return vreinterpretq_s8_s32(vdupq_n_s32(four));
}

/* Sixteen outputs of one quad: adds the products with the quad `lane` of x. */
#define EDGE_QUAD(lane)                                                         \
  do {                                                                          \
    const int8x16x4_t w = vld1q_s8_x4(weight);                                  \
    weight += EDGE_PANEL * 4;                                                   \
    EDGE_KEEP_ORDER(weight);                                                    \
    EDGE_UNROLL                                                                 \
    for (size_t r = 0; r < rows; ++r) {                                         \
      sum[r][0] = vdotq_laneq_s32(sum[r][0], w.val[0], x[r], lane);             \
      sum[r][1] = vdotq_laneq_s32(sum[r][1], w.val[1], x[r], lane);             \
      sum[r][2] = vdotq_laneq_s32(sum[r][2], w.val[2], x[r], lane);             \
      sum[r][3] = vdotq_laneq_s32(sum[r][3], w.val[3], x[r], lane);             \
    }                                                                           \
  } while (0)

EDGE_INLINE void sixteen_outputs(const size_t rows, const dense_runs *runs, const int32_t *start, const int8_t *weight,
                                 const int8_t *const *row, int32_t *sums) {
  int32x4_t sum[DENSE_ROWS][4];
  EDGE_UNROLL
  for (size_t r = 0; r < rows; ++r) {
    EDGE_UNROLL
    for (size_t i = 0; i < 4; ++i) sum[r][i] = vld1q_s32(start + 4 * i);
  }
  for (size_t d = 0; d < runs->down; ++d) {
    for (size_t a = 0; a < runs->across; ++a) {
      const size_t at = d * runs->down_step + a * runs->across_step;
      int8x16_t x[DENSE_ROWS];
      size_t q = 0;
      for (; q + 4 <= runs->quads; q += 4) {
        EDGE_UNROLL
        for (size_t r = 0; r < rows; ++r) x[r] = vld1q_s8(row[r] + at + 4 * q);
        EDGE_QUAD(0);
        EDGE_QUAD(1);
        EDGE_QUAD(2);
        EDGE_QUAD(3);
      }
      for (; q < runs->quads; ++q) {
        EDGE_UNROLL
        for (size_t r = 0; r < rows; ++r) x[r] = broadcast_quad(row[r] + at + 4 * q);
        EDGE_QUAD(0);
      }
    }
  }
  EDGE_UNROLL
  for (size_t r = 0; r < rows; ++r) {
    EDGE_UNROLL
    for (size_t i = 0; i < 4; ++i) vst1q_s32(sums + r * EDGE_PANEL + 4 * i, sum[r][i]);
  }
}

EDGE_APART void four_rows(const dense_runs *runs, const int32_t *start, const int8_t *weight, const int8_t *const *row,
                          int32_t *sums) {
  sixteen_outputs(4, runs, start, weight, row, sums);
}

EDGE_INLINE void dense_tile(const size_t rows, const size_t groups, const dense_runs *runs, const int32_t *start,
                            const int8_t *weight, const int8_t *const *row, int32_t *sums) {
  for (size_t g = 0; g < groups; ++g) {
    if (rows == DENSE_ROWS) {
      four_rows(runs, start + 16 * g, weight + 64 * g, row, sums + 16 * g);
    } else {
      sixteen_outputs(1, runs, start + 16 * g, weight + 64 * g, row, sums + 16 * g);
    }
  }
}

EDGE_INLINE int32x4_t dot_of_four(int32x4_t sum, int32x4_t quads, int32x4_t w) {
  return vdotq_s32(sum, vreinterpretq_s8_s32(quads), vreinterpretq_s8_s32(w));
}
EDGE_INLINE vi vi_dot(vi sum, vi quads, vi w) {
  return (vi){dot_of_four(sum.a, quads.a, w.a), dot_of_four(sum.b, quads.b, w.b), dot_of_four(sum.c, quads.c, w.c),
              dot_of_four(sum.d, quads.d, w.d)};
}

EDGE_DOTPROD_END

#endif
