/* Tiles of eight rows and eight outputs with SMMLA: each adds to two rows times two outputs the products of eight values
 * of k. The rows are arranged in pairs for it; a single row uses SDOT, which machines with SMMLA have too. */
#include <arm_neon.h>

/* Of the activations of one depth: arranged[block of 8 rows][group of 8 k][pair of rows][row][byte]. */
#define ARRANGED_BYTES (EDGE_ROW_BLOCK * DEPTH)
#define TILE_PAIRS 4

EDGE_INLINE void arrange(size_t rows, size_t depth, const int8_t *codes, size_t padded, int8_t *to) {
  for (size_t r = 0; r < rows; r += 2) {
    const int8_t *first = codes + r * padded, *second = r + 1 < rows ? first + padded : first;
    int8_t *pair = to + r / 8 * 8 * depth + r % 8 / 2 * 16;
    for (size_t k = 0; k < depth; k += 16, pair += 2 * BLOCK_BYTES) {
      const int64x2_t a = vreinterpretq_s64_s8(vld1q_s8(first + k)), b = vreinterpretq_s64_s8(vld1q_s8(second + k));
      vst1q_s8(pair, vreinterpretq_s8_s64(vzip1q_s64(a, b)));
      vst1q_s8(pair + BLOCK_BYTES, vreinterpretq_s8_s64(vzip2q_s64(a, b)));
    }
  }
}

/* One group of k; takes the pointers on. */
#define EDGE_OCTET                                                                              \
  do {                                                                                          \
    const four_registers w = load_block(weights), two_rows = load_block(x);                     \
    weights += BLOCK_BYTES;                                                                     \
    x += BLOCK_BYTES;                                                                           \
    EDGE_KEEP_ORDER(weights);                                                                   \
    EDGE_KEEP_ORDER(x);                                                                         \
    EDGE_UNROLL                                                                                 \
    for (size_t p = 0; p < pairs; ++p) {                                                        \
      EDGE_UNROLL                                                                               \
      for (size_t i = 0; i < 4; ++i) sum[p][i] = vmmlaq_s32(sum[p][i], two_rows.val[p], w.val[i]); \
    }                                                                                           \
  } while (0)

EDGE_INLINE void tile(const size_t pairs, size_t depth, const int8_t *x, const int8_t *weights, const int32_t *start,
                      int32_t *sums) {
  int32x4_t sum[TILE_PAIRS][4]; /* two rows times two outputs */
  EDGE_UNROLL
  for (size_t p = 0; p < pairs; ++p) {
    int32x4_t first = vdupq_n_s32(0);
    if (start != NULL) {
      const int32x4_t two_pairs = vld1q_s32(start + p / 2 * 4);
      first = p % 2 == 0 ? vzip1q_s32(two_pairs, two_pairs) : vzip2q_s32(two_pairs, two_pairs);
    }
    EDGE_UNROLL
    for (size_t i = 0; i < 4; ++i) sum[p][i] = first;
  }
  const int8_t *end = x + 8 * depth;
  do { /* a whole number of two groups */
    EDGE_OCTET;
    EDGE_OCTET;
  } while (x < end);
  EDGE_UNROLL
  for (size_t p = 0; p < pairs; ++p) {
    EDGE_UNROLL
    for (size_t i = 0; i < 4; i += 2) {
      const int64x2_t a = vreinterpretq_s64_s32(sum[p][i]), b = vreinterpretq_s64_s32(sum[p][i + 1]);
      int32x4_t row = vreinterpretq_s32_s64(vzip1q_s64(a, b)), next = vreinterpretq_s32_s64(vzip2q_s64(a, b));
      int32_t *to = sums + 2 * p * EDGE_PANEL + 2 * i;
      if (start == NULL) {
        row = vaddq_s32(row, vld1q_s32(to));
        next = vaddq_s32(next, vld1q_s32(to + EDGE_PANEL));
      }
      vst1q_s32(to, row);
      vst1q_s32(to + EDGE_PANEL, next);
    }
  }
}

EDGE_APART void tile_of_eight(size_t depth, const int8_t *x, const int8_t *weights, const int32_t *start,
                              int32_t *sums) {
  tile(4, depth, x, weights, start, sums);
}

/* With an odd number of rows the last is computed twice; there is an even number of sums. */
static void tiles(const edge_qd8_gemm *gemm, size_t depth, const int8_t *codes, const int8_t *weights,
                  const int32_t *start, int32_t *sums) {
  const size_t rows = gemm->rows;
  size_t r = 0;
  for (; r + 7 <= rows; r += 8) {
    tile_of_eight(depth, codes + r * depth, weights, start, sums + r * EDGE_PANEL);
    if (start != NULL) start += 8;
  }
  codes += r * depth;
  sums += r * EDGE_PANEL;
  switch (r < rows ? (rows - r + 1) / 2 : 0) {
    case 1: tile(1, depth, codes, weights, start, sums); break;
    case 2: tile(2, depth, codes, weights, start, sums); break;
    case 3: tile(3, depth, codes, weights, start, sums); break;
    default: break;
  }
}

#if EDGE_BITS < 8

#define EDGE_ROW_REGISTER(i)                                                   \
  do {                                                                         \
    EDGE_UNROLL                                                                \
    for (int f = 0; f < FIELDS; ++f) {                                         \
      sum[f][i] = vdotq_s32(sum[f][i], field_of(w.val[i], f), x);              \
    }                                                                          \
  } while (0)

EDGE_APART void row_tile(size_t depth, const int8_t *codes, const uint8_t *set, int32_t start, int32_t *sums) {
  int32x4_t sum[FIELDS][4]; /* of two outputs, each in two halves */
  EDGE_UNROLL
  for (size_t f = 0; f < FIELDS; ++f) {
    EDGE_UNROLL
    for (size_t i = 0; i < 4; ++i) sum[f][i] = (int32x4_t){start, 0, start, 0};
  }
  for (const int8_t *end = codes + depth; codes < end; codes += 8, set += BLOCK_BYTES) {
    const int8x16_t x = vreinterpretq_s8_s64(vdupq_n_s64(vget_lane_s64(vreinterpret_s64_s8(vld1_s8(codes)), 0)));
    const four_registers w = load_block((const int8_t *)set);
    EDGE_ROW_REGISTER(0);
    EDGE_ROW_REGISTER(1);
    EDGE_ROW_REGISTER(2);
    EDGE_ROW_REGISTER(3);
  }
  EDGE_UNROLL
  for (size_t f = 0; f < FIELDS; ++f) {
    vst1q_s32(sums + f * SETS * BLOCK, vpaddq_s32(sum[f][0], sum[f][1]));
    vst1q_s32(sums + f * SETS * BLOCK + 4, vpaddq_s32(sum[f][2], sum[f][3]));
  }
}

#endif
