/* The body of the integer GEMM kernels for ARM: included once by each of them, with EDGE_BITS, EDGE_GROUP, EDGE_ISA and
 * the tile functions of an instruction set defined.
 *
 * Weights of 2 and 4 bits are unpacked, a panel's DEPTH at a time, into a buffer that the nearest cache holds, and then
 * meet all rows. A single row is multiplied without the detour. The codes are multiplied as they are stored (0 .. 3,
 * 0 .. 15); what the zero point makes too much of it is where the sums start from.
 *
 * An instruction set defines
 *
 *   arrange(rows, depth, codes, padded, to)     writes the rows of activations in the order that `tiles` wants them,
 *                                               if ARRANGED_BYTES > 0
 *   tiles(gemm, depth, codes, weights, start, sums)
 *                                               all rows and one block of unpacked weights: adds to the sums, or, if
 *                                               start is not NULL, to start[r]; sums[r * EDGE_PANEL + j] is for output
 *                                               j of the block
 *   row_tile(depth, codes, set, start, sums)    one row and one set of packed weights (2 and 4 bits): all its fields;
 *                                               sums[j] for output j of the panel that is in the set
 */
#include "kernels/scalar/epilogue.h"

/* Values of k that are unpacked at a time: 16 KB. A multiple of what every kernel may add up in 16 bits. */
#define DEPTH 256

#if EDGE_BITS < 8
EDGE_INLINE int8_t *store_field(const int f, four_registers w, int8_t *to) {
  store_block(to, (four_registers){{field_of(w.val[0], f), field_of(w.val[1], f), field_of(w.val[2], f),
                                    field_of(w.val[3], f)}});
  to += BLOCK_BYTES;
  EDGE_KEEP_ORDER(to);
  return to;
}

/* Groups first .. first + count - 1 of a panel: unpacked[block][group][register][byte]. */
EDGE_INLINE void unpack(const uint8_t *panel, size_t groups, size_t first, size_t count, int8_t *unpacked) {
  for (size_t v = 0; v < SETS; ++v) {
    const int8_t *from = (const int8_t *)panel + (v * groups + first) * BLOCK_BYTES, *end = from + count * BLOCK_BYTES;
    int8_t *to[FIELDS];
    EDGE_UNROLL
    for (size_t f = 0; f < FIELDS; ++f) to[f] = unpacked + (f * SETS + v) * count * BLOCK_BYTES;
    while (from < end) {
      const four_registers w = load_block(from);
      from += BLOCK_BYTES;
      EDGE_KEEP_ORDER(from);
      to[0] = store_field(0, w, to[0]);
      to[1] = store_field(1, w, to[1]);
#if EDGE_BITS == 2
      to[2] = store_field(2, w, to[2]);
      to[3] = store_field(3, w, to[3]);
#endif
    }
  }
}
#endif

/* The sums of a panel's first `blocks` blocks. */
EDGE_INLINE void panel_sums(const edge_qd8_gemm *gemm, const uint8_t *panel, size_t blocks, const int8_t *arranged,
                            int8_t *rearranged, const int32_t *start, int32_t *sums) {
  const size_t depth = depth_of(gemm->k), groups = depth / GROUP;
#if EDGE_BITS < 8
  if (gemm->rows == 1) {
    for (size_t v = 0; v < SETS && v < blocks; ++v) {
      row_tile(depth, gemm->codes, panel + v * groups * BLOCK_BYTES, *start, sums + v * BLOCK);
    }
    return;
  }
#endif
  for (size_t k = 0; k < depth; k += DEPTH) {
    const size_t count = depth - k < DEPTH ? depth - k : DEPTH;
#if EDGE_BITS < 8
    int8_t weights[EDGE_PANEL * DEPTH];
    unpack(panel, groups, k / GROUP, count / GROUP, weights);
    const size_t step = count / GROUP * BLOCK_BYTES;
#else
    const int8_t *weights = (const int8_t *)panel + k / GROUP * BLOCK_BYTES;
    const size_t step = groups * BLOCK_BYTES;
#endif
    const int8_t *codes = gemm->codes + k;
    if (ARRANGED_BYTES > 0) {
      codes = arranged;
      if (arranged == NULL) {
        arrange(gemm->rows, count, gemm->codes + k, gemm->padded, rearranged);
        codes = rearranged;
      }
    }
    for (size_t b = 0; b < blocks; ++b) {
      tiles(gemm, count, codes, weights + b * step, k > 0 ? NULL : start,
            sums + b * BLOCK);
    }
  }
}

#if defined(__aarch64__)
#include "kernels/neon/vector__neon.h"
/* which these need */
#include "kernels/simd/math.h"
/* in this order */
#include "kernels/simd/finish.h"
#else
/* Vectors of 32-bit ARM flush subnormal numbers, so floats are the scalar unit's. */
static void v_finish(const edge_qd8_gemm *gemm, int32_t *sums, int zero_point, size_t first, size_t count) {
  for (size_t r = 0; r < gemm->rows; ++r) {
    for (size_t j = 0; j < count; ++j) {
      (void)zero_point;
      const int32_t exact = sums[r * EDGE_PANEL + j];
      edge_store(&gemm->out, r, first + j, edge_dequantize(exact, first + j, &gemm->row[r], &gemm->epilogue));
    }
  }
}
#endif

static void run(const edge_qd8_gemm *gemm, size_t first, size_t last) {
  const size_t panel_bytes = panel_bytes_of(gemm->k), depth = depth_of(gemm->k);
  int8_t buffer[ARRANGED_BYTES + 1]; /* C has no arrays of nothing */
  const int8_t *arranged = NULL;
  if (ARRANGED_BYTES > 0 && depth <= DEPTH) { /* once for all panels */
    arrange(gemm->rows, depth, gemm->codes, gemm->padded, buffer);
    arranged = buffer;
  }
  int32_t start[EDGE_ROW_BLOCK + 3] = {0}; /* some more, because they may be read by fours */
  for (size_t r = 0; r < gemm->rows && EDGE_BITS < 8; ++r) start[r] = -gemm->zero_point * gemm->row[r].sum;
  for (size_t o = first; o < last; o += EDGE_PANEL) {
    const size_t count = last - o < EDGE_PANEL ? last - o : EDGE_PANEL;
    int32_t sums[EDGE_ROW_BLOCK * EDGE_PANEL];
    panel_sums(gemm, (const uint8_t *)gemm->weight + o / EDGE_PANEL * panel_bytes, (count + BLOCK - 1) / BLOCK,
               arranged, buffer, start, sums);
    v_finish(gemm, sums, 0, o, count);
  }
}
