/* Tiles of four rows and sixteen outputs with SDOT: each adds to four outputs the products of four values of k, which it
 * takes from any quarter of a register of activations. */
#include <arm_neon.h>

#define ARRANGED_BYTES 0
EDGE_INLINE void arrange(size_t rows, size_t depth, const int8_t *codes, size_t padded, int8_t *to) {
  (void)rows, (void)depth, (void)codes, (void)padded, (void)to;
}

#define EDGE_QUAD(q)                                                                    \
  do {                                                                                  \
    const four_registers w = load_block(weights);                                       \
    weights += BLOCK_BYTES;                                                             \
    EDGE_KEEP_ORDER(weights);                                                           \
    EDGE_UNROLL                                                                         \
    for (size_t r = 0; r < rows; ++r) {                                                 \
      sum[r][0] = vdotq_laneq_s32(sum[r][0], w.val[0], x[r], q);                        \
      sum[r][1] = vdotq_laneq_s32(sum[r][1], w.val[1], x[r], q);                        \
      sum[r][2] = vdotq_laneq_s32(sum[r][2], w.val[2], x[r], q);                        \
      sum[r][3] = vdotq_laneq_s32(sum[r][3], w.val[3], x[r], q);                        \
    }                                                                                   \
  } while (0)

EDGE_INLINE void tile(const size_t rows, size_t depth, const int8_t *codes, size_t padded, const int8_t *weights,
                      const int32_t *start, int32_t *sums) {
  int32x4_t sum[4][4];
  EDGE_UNROLL
  for (size_t r = 0; r < rows; ++r) {
    EDGE_UNROLL
    for (size_t i = 0; i < 4; ++i) {
      sum[r][i] = start != NULL ? vdupq_n_s32(start[r]) : vld1q_s32(sums + r * EDGE_PANEL + 4 * i);
    }
  }
  for (const int8_t *end = codes + depth; codes < end; codes += 16) {
    int8x16_t x[4];
    EDGE_UNROLL
    for (size_t r = 0; r < rows; ++r) x[r] = vld1q_s8(codes + r * padded);
    EDGE_QUAD(0);
    EDGE_QUAD(1);
    EDGE_QUAD(2);
    EDGE_QUAD(3);
  }
  EDGE_UNROLL
  for (size_t r = 0; r < rows; ++r) {
    EDGE_UNROLL
    for (size_t i = 0; i < 4; ++i) vst1q_s32(sums + r * EDGE_PANEL + 4 * i, sum[r][i]);
  }
}

EDGE_APART void tile_of_four(size_t depth, const int8_t *codes, size_t padded, const int8_t *weights,
                             const int32_t *start, int32_t *sums) {
  tile(4, depth, codes, padded, weights, start, sums);
}

static void tiles(const edge_qd8_gemm *gemm, size_t depth, const int8_t *codes, const int8_t *weights,
                  const int32_t *start, int32_t *sums) {
  const size_t rows = gemm->rows, padded = gemm->padded;
  size_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    tile_of_four(depth, codes + r * padded, padded, weights, start, sums + r * EDGE_PANEL);
    if (start != NULL) start += 4;
  }
  codes += r * padded;
  sums += r * EDGE_PANEL;
  switch (rows - r) {
    case 1: tile(1, depth, codes, padded, weights, start, sums); break;
    case 2: tile(2, depth, codes, padded, weights, start, sums); break;
    case 3: tile(3, depth, codes, padded, weights, start, sums); break;
    default: break;
  }
}

#if EDGE_BITS < 8

/* Masks without shifts: field f's sums are 4^f times too large, which is taken off at the end, except in the last field,
 * where the codes would not be positive. */
EDGE_INLINE int8x16_t scaled_field_of(int8x16_t packed, const int f) {
  if (EDGE_BITS == 4 || f == 0 || f == 3) return field_of(packed, f);
  return vandq_s8(packed, vdupq_n_s8(f == 1 ? 0x0C : 0x30));
}

#define EDGE_ROW_QUAD(q)                                                                \
  do {                                                                                  \
    const four_registers w = load_block((const int8_t *)set);                           \
    set += BLOCK_BYTES;                                                                 \
    EDGE_KEEP_ORDER(set);                                                               \
    EDGE_UNROLL                                                                         \
    for (int f = 0; f < FIELDS; ++f) {                                                  \
      sum[f][0] = vdotq_laneq_s32(sum[f][0], scaled_field_of(w.val[0], f), x, q);       \
      sum[f][1] = vdotq_laneq_s32(sum[f][1], scaled_field_of(w.val[1], f), x, q);       \
      sum[f][2] = vdotq_laneq_s32(sum[f][2], scaled_field_of(w.val[2], f), x, q);       \
      sum[f][3] = vdotq_laneq_s32(sum[f][3], scaled_field_of(w.val[3], f), x, q);       \
    }                                                                                   \
  } while (0)

/* 48 * 128 * k, the largest of such sums, stays below 2^31 up to here. */
#define DEEPEST 349525

EDGE_APART void row_tile(size_t depth, const int8_t *codes, const uint8_t *set, int32_t start, int32_t *sums) {
  int32x4_t sum[FIELDS][4];
  EDGE_UNROLL
  for (size_t f = 0; f < FIELDS; ++f) {
    EDGE_UNROLL
    for (size_t i = 0; i < 4; ++i) sum[f][i] = vdupq_n_s32(start * (EDGE_BITS == 4 || f % 3 == 0 ? 1 : f == 1 ? 4 : 16));
  }
  for (const int8_t *end = codes + depth; codes < end; codes += 16) {
    const int8x16_t x = vld1q_s8(codes);
    EDGE_ROW_QUAD(0);
    EDGE_ROW_QUAD(1);
    EDGE_ROW_QUAD(2);
    EDGE_ROW_QUAD(3);
  }
  EDGE_UNROLL
  for (size_t f = 0; f < FIELDS; ++f) {
    EDGE_UNROLL
    for (size_t i = 0; i < 4; ++i) {
      int32x4_t exact = sum[f][i];
      if (EDGE_BITS == 2 && f == 1) exact = vshrq_n_s32(exact, 2);
      if (EDGE_BITS == 2 && f == 2) exact = vshrq_n_s32(exact, 4);
      vst1q_s32(sums + f * SETS * BLOCK + 4 * i, exact);
    }
  }
}

#endif
