/* Tiles of four rows (two on 32-bit ARM, which has half the registers) and four outputs with SMLAL: the lanes hold
 * values of k, of which each adds up products in 16 bits, and they are folded now and then. */
#include <arm_neon.h>

#define ARRANGED_BYTES 0
EDGE_INLINE void arrange(size_t rows, size_t depth, const int8_t *codes, size_t padded, int8_t *to) {
  (void)rows, (void)depth, (void)codes, (void)padded, (void)to;
}

#if defined(__aarch64__)
#define TILE_ROWS 4
#else
#define TILE_ROWS 2
#endif

#if EDGE_BITS < 8
/* Values of k before a fold: a lane adds FOLD / 8 products of at most 3 * 128 or 15 * 128, and 2^15 is too much. */
#define FOLD (EDGE_BITS == 2 ? 512 : 128)
#endif

EDGE_INLINE int32x4_t pairwise(int32x4_t a, int32x4_t b) {
#if defined(__aarch64__)
  return vpaddq_s32(a, b);
#else
  return vcombine_s32(vpadd_s32(vget_low_s32(a), vget_high_s32(a)), vpadd_s32(vget_low_s32(b), vget_high_s32(b)));
#endif
}

EDGE_INLINE int32x4_t fold(int32x4_t a, int32x4_t b, int32x4_t c, int32x4_t d) {
  return pairwise(pairwise(a, b), pairwise(c, d));
}

EDGE_INLINE int16x8_t multiply_high(int16x8_t sum, int8x16_t w, int8x16_t x) {
#if defined(__aarch64__)
  return vmlal_high_s8(sum, w, x);
#else
  return vmlal_s8(sum, vget_high_s8(w), vget_high_s8(x));
#endif
}

#if EDGE_BITS < 8

EDGE_INLINE int16x8_t multiply_add(int16x8_t sum, int8x16_t w, int8x16_t x) {
  return multiply_high(vmlal_s8(sum, vget_low_s8(w), vget_low_s8(x)), w, x);
}

typedef int16x8_t tile_sum;
EDGE_INLINE int16x8_t no_sum(void) { return vdupq_n_s16(0); }
EDGE_INLINE int32x4_t wide_sum(int16x8_t sum) { return vpaddlq_s16(sum); }

#else

/* Two products of 8 bits fit 16, but for twice -128 * -128, and only 2-bit weights meet codes of -128. */
EDGE_INLINE int32x4_t multiply_add(int32x4_t sum, int8x16_t w, int8x16_t x) {
  return vpadalq_s16(sum, multiply_high(vmull_s8(vget_low_s8(w), vget_low_s8(x)), w, x));
}

typedef int32x4_t tile_sum;
EDGE_INLINE int32x4_t no_sum(void) { return vdupq_n_s32(0); }
EDGE_INLINE int32x4_t wide_sum(int32x4_t sum) { return sum; }

#endif

EDGE_INLINE void tile(const size_t rows, size_t depth, const int8_t *codes, size_t padded, const int8_t *weights,
                      const int32_t *start, int32_t *sums) {
  tile_sum sum[TILE_ROWS][4];
  EDGE_UNROLL
  for (size_t r = 0; r < rows; ++r) {
    EDGE_UNROLL
    for (size_t i = 0; i < 4; ++i) sum[r][i] = no_sum();
  }
  for (const int8_t *end = codes + depth; codes < end; codes += 16, weights += BLOCK_BYTES) {
    const four_registers w = load_block(weights);
    EDGE_UNROLL
    for (size_t r = 0; r < rows; ++r) {
      const int8x16_t x = vld1q_s8(codes + r * padded);
      EDGE_UNROLL
      for (size_t i = 0; i < 4; ++i) sum[r][i] = multiply_add(sum[r][i], w.val[i], x);
    }
  }
  EDGE_UNROLL
  for (size_t r = 0; r < rows; ++r) {
    const int32x4_t before = start != NULL ? vdupq_n_s32(start[r]) : vld1q_s32(sums + r * EDGE_PANEL);
    const int32x4_t four = fold(wide_sum(sum[r][0]), wide_sum(sum[r][1]), wide_sum(sum[r][2]), wide_sum(sum[r][3]));
    vst1q_s32(sums + r * EDGE_PANEL, vaddq_s32(before, four));
  }
}

/* As many values of k as may be added up before a fold. */
EDGE_INLINE void tiles_of_a_fold(const edge_qd8_gemm *gemm, size_t depth, const int8_t *codes, const int8_t *weights,
                                 const int32_t *start, int32_t *sums) {
  const size_t rows = gemm->rows, padded = gemm->padded;
  size_t r = 0;
  for (; r + TILE_ROWS <= rows; r += TILE_ROWS) {
    tile(TILE_ROWS, depth, codes + r * padded, padded, weights, start, sums + r * EDGE_PANEL);
    if (start != NULL) start += TILE_ROWS;
  }
  codes += r * padded;
  sums += r * EDGE_PANEL;
  switch (rows - r) {
    case 1: tile(1, depth, codes, padded, weights, start, sums); break;
#if TILE_ROWS > 2
    case 2: tile(2, depth, codes, padded, weights, start, sums); break;
    case 3: tile(3, depth, codes, padded, weights, start, sums); break;
#endif
    default: break;
  }
}

static void tiles(const edge_qd8_gemm *gemm, size_t depth, const int8_t *codes, const int8_t *weights,
                  const int32_t *start, int32_t *sums) {
#if EDGE_BITS == 4
  for (size_t k = 0; k < depth; k += FOLD) {
    const size_t count = depth - k < FOLD ? depth - k : FOLD;
    tiles_of_a_fold(gemm, count, codes + k, weights + k / GROUP * BLOCK_BYTES, k > 0 ? NULL : start, sums);
  }
#else
  tiles_of_a_fold(gemm, depth, codes, weights, start, sums);
#endif
}

#if EDGE_BITS < 8

/* Up to FOLD values of k. */
EDGE_INLINE void row_tile_of_a_fold(size_t depth, const int8_t *codes, const uint8_t *set, const int32_t *start,
                                    int32_t *sums) {
  int16x8_t sum[FIELDS][4];
  EDGE_UNROLL
  for (size_t f = 0; f < FIELDS; ++f) {
    EDGE_UNROLL
    for (size_t i = 0; i < 4; ++i) sum[f][i] = vdupq_n_s16(0);
  }
  for (const int8_t *end = codes + depth; codes < end; codes += 16, set += BLOCK_BYTES) {
    const int8x16_t x = vld1q_s8(codes);
    const four_registers w = load_block((const int8_t *)set);
    EDGE_UNROLL
    for (size_t i = 0; i < 4; ++i) {
      EDGE_UNROLL
      for (int f = 0; f < FIELDS; ++f) {
        sum[f][i] = multiply_add(sum[f][i], field_of(w.val[i], f), x);
      }
    }
  }
  EDGE_UNROLL
  for (size_t f = 0; f < FIELDS; ++f) {
    int32_t *to = sums + f * SETS * BLOCK;
    const int32x4_t before = start != NULL ? vdupq_n_s32(*start) : vld1q_s32(to);
    const int32x4_t four = fold(wide_sum(sum[f][0]), wide_sum(sum[f][1]), wide_sum(sum[f][2]), wide_sum(sum[f][3]));
    vst1q_s32(to, vaddq_s32(before, four));
  }
}

static void row_tile(size_t depth, const int8_t *codes, const uint8_t *set, int32_t start, int32_t *sums) {
  for (size_t k = 0; k < depth; k += FOLD) {
    const size_t count = depth - k < FOLD ? depth - k : FOLD;
    row_tile_of_a_fold(count, codes + k, set + k / GROUP * BLOCK_BYTES, k > 0 ? NULL : &start, sums);
  }
}

#endif
