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

/* Sums of two rows and two times two outputs, row by row. */
EDGE_INLINE void add_pairs(bool add, int32x4_t a, int32x4_t b, int32_t *sums) {
  const int64x2_t first = vreinterpretq_s64_s32(a), second = vreinterpretq_s64_s32(b);
  int32x4_t row = vreinterpretq_s32_s64(vzip1q_s64(first, second));
  int32x4_t next = vreinterpretq_s32_s64(vzip2q_s64(first, second));
  if (add) {
    row = vaddq_s32(row, vld1q_s32(sums));
    next = vaddq_s32(next, vld1q_s32(sums + EDGE_PANEL));
  }
  vst1q_s32(sums, row);
  vst1q_s32(sums + EDGE_PANEL, next);
}

EDGE_INLINE void tile(const size_t pairs, size_t depth, const int8_t *x, const int8_t *weights, bool add,
                      int32_t *sums) {
  int32x4_t sum[TILE_PAIRS][4];
  EDGE_UNROLL
  for (size_t p = 0; p < pairs; ++p) {
    EDGE_UNROLL
    for (size_t i = 0; i < 4; ++i) sum[p][i] = vdupq_n_s32(0);
  }
  for (const int8_t *end = x + 8 * depth; x < end; x += BLOCK_BYTES, weights += BLOCK_BYTES) {
    const int8x16x4_t w = vld1q_s8_x4(weights), two_rows = vld1q_s8_x4(x);
    EDGE_UNROLL
    for (size_t p = 0; p < pairs; ++p) {
      sum[p][0] = vmmlaq_s32(sum[p][0], two_rows.val[p], w.val[0]);
      sum[p][1] = vmmlaq_s32(sum[p][1], two_rows.val[p], w.val[1]);
      sum[p][2] = vmmlaq_s32(sum[p][2], two_rows.val[p], w.val[2]);
      sum[p][3] = vmmlaq_s32(sum[p][3], two_rows.val[p], w.val[3]);
    }
  }
  EDGE_UNROLL
  for (size_t p = 0; p < pairs; ++p) {
    add_pairs(add, sum[p][0], sum[p][1], sums + 2 * p * EDGE_PANEL);
    add_pairs(add, sum[p][2], sum[p][3], sums + 2 * p * EDGE_PANEL + 4);
  }
}

/* With an odd number of rows the last is computed twice; there is an even number of sums. */
static void tiles(size_t rows, size_t depth, const int8_t *codes, size_t padded, const int8_t *weights, bool add,
                  int32_t *sums) {
  (void)padded;
  size_t r = 0;
  for (; r + 8 <= rows; r += 8) tile(4, depth, codes + r * depth, weights, add, sums + r * EDGE_PANEL);
  codes += r * depth;
  sums += r * EDGE_PANEL;
  switch ((rows - r + 1) / 2) {
    case 1: tile(1, depth, codes, weights, add, sums); break;
    case 2: tile(2, depth, codes, weights, add, sums); break;
    case 3: tile(3, depth, codes, weights, add, sums); break;
    case 4: tile(4, depth, codes, weights, add, sums); break;
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

static void row_tile(size_t depth, const int8_t *codes, const uint8_t *set, int32_t *sums) {
  int32x4_t sum[FIELDS][4]; /* of two outputs, each in two halves */
  EDGE_UNROLL
  for (size_t f = 0; f < FIELDS; ++f) {
    EDGE_UNROLL
    for (size_t i = 0; i < 4; ++i) sum[f][i] = vdupq_n_s32(0);
  }
  for (const int8_t *end = codes + depth; codes < end; codes += 8, set += BLOCK_BYTES) {
    const int8x16_t x = vreinterpretq_s8_s64(vdupq_n_s64(vget_lane_s64(vreinterpret_s64_s8(vld1_s8(codes)), 0)));
    const uint8x16x4_t w = vld1q_u8_x4(set);
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
