/* The GEMM on ternary weights in layout `trits`; see trits.h. */
#include "kernels/micro/trits.h"

#if defined(EDGE_HAS_TRITS)

#include "kernels/micro/finish.h"

#if defined(EDGE_OWN_TABLE)
/* edge_trits_table is the processor's own. */
#elif defined(__thumb__)
/* Seven words live in registers. */
__asm__(
    "  .syntax unified\n"
    "  .thumb\n"
    "  .text\n"
    "  .macro edge_block by\n"
    "  add r1, \\by\n"
    "  add r2, \\by\n"
    "  add r3, \\by\n"
    "  add r4, \\by\n"
    "  add r5, \\by\n"
    "  add r6, \\by\n"
    "  add r7, \\by\n"
    "  stmia r0!, {r1-r7}\n"
    "  .endm\n"
    "  .global edge_trits_blocks\n"
    "  .type edge_trits_blocks, %function\n"
    "  .thumb_func\n"
    "edge_trits_blocks:\n"
    "  push {r4-r7, lr}\n"
    "  mov r4, r8\n"
    "  mov r5, r9\n"
    "  push {r4, r5}\n"
    "  mov r8, r2\n"
    "  mov r9, r3\n"
    "  ldmia r1, {r1-r7}\n"
    "  stmia r0!, {r1-r7}\n"
    "  edge_block r8\n"
    "  edge_block r8\n"
    "  edge_block r9\n"
    "  edge_block r8\n"
    "  edge_block r8\n"
    "  edge_block r9\n"
    "  edge_block r8\n"
    "  edge_block r8\n"
    "  pop {r4, r5}\n"
    "  mov r8, r4\n"
    "  mov r9, r5\n"
    "  pop {r4-r7, pc}\n");
#else
uint32_t *edge_trits_blocks(uint32_t *table, const uint32_t *words, uint32_t a, uint32_t next) {
  uint32_t w0 = words[0], w1 = words[1], w2 = words[2], w3 = words[3], w4 = words[4], w5 = words[5], w6 = words[6];
  for (int block = 0;; ++block, table += 7) {
    table[0] = w0, table[1] = w1, table[2] = w2, table[3] = w3, table[4] = w4, table[5] = w5, table[6] = w6;
    if (block == 8) return table + 7;
    const uint32_t by = block == 2 || block == 5 ? next : a;
    w0 += by, w1 += by, w2 += by, w3 += by, w4 += by, w5 += by, w6 += by;
  }
}
#endif

#if !defined(EDGE_OWN_TABLE)
int32_t edge_trits_table(const int8_t *x, uint16_t *table) {
  uint32_t start = 0, sum = 0; /* of all zeros as digits: -x each, and |x| */
  for (int i = 0; i < 5; ++i) {
    if (x[i] < 0) start -= 2 * (uint32_t)x[i];
    sum += (uint32_t)x[i];
  }
  /* The nine sums of two digits, two a word; then those with the third digit. A word counts as low + 65536 high. */
  const uint32_t x0 = (uint32_t)x[0], x1 = (uint32_t)x[1], x2 = (uint32_t)x[2] * 0x10001u;
  const uint32_t both = start * 0x10001u, step = x1 * 0x10001u;
  uint32_t words[14];
  const uint32_t t01 = both + (x0 << 16), t34 = t01 + step, t67 = t34 + step;
  const uint32_t t23 = both + 2 * x0 + (x1 << 16), t45 = t34 + x0 + (x0 << 16);
  const uint32_t t8 = start + 2 * x0 + 2 * x1;
  const uint32_t t12 = t01 + x0 + (x0 << 16), t56 = both + step + 2 * x0 + (x1 << 16), t78 = t67 + x0 + (x0 << 16);
  words[0] = t01;
  words[1] = t23;
  words[2] = t45;
  words[3] = t67;
  words[4] = t8 + ((start + (uint32_t)x[2]) << 16);
  words[5] = t12 + x2;
  words[6] = t34 + x2;
  words[7] = t56 + x2;
  words[8] = t78 + x2;
  words[9] = t01 + 2 * x2;
  words[10] = t23 + 2 * x2;
  words[11] = t45 + 2 * x2;
  words[12] = t67 + 2 * x2;
  words[13] = t8 + 2 * x2;
  const uint32_t a = (uint32_t)x[3] * 0x10001u, b = (uint32_t)x[4] * 0x10001u - 2 * a;
  uint32_t *end = edge_trits_blocks((uint32_t *)(void *)table, words, a, b);
  edge_trits_blocks(end, words + 7, a, b);
  return (int32_t)(start + sum);
}
#endif

/* Tables first .. first + count - 1 of a row's codes. */
static int32_t make_tables(const int8_t *codes, size_t k, size_t first, size_t count, uint16_t *tables) {
  int32_t added = 0;
  for (size_t g = first; g < first + count; ++g, tables += EDGE_TRITS_TABLE) {
    if (5 * g + 5 <= k) {
      added += edge_trits_table(codes + 5 * g, tables);
      continue;
    }
    int8_t last[5] = {0};
    for (size_t i = 5 * g; i < k; ++i) last[i - 5 * g] = codes[i];
    added += edge_trits_table(last, tables);
  }
  return added;
}

size_t edge_trits_scratch(size_t n, size_t k) {
  (void)k;
  return EDGE_TRITS_BYTES + n * sizeof(int32_t);
}

void edge_qd8_f32_qc2w_gemm__trits(const edge_qd8_gemm *gemm, size_t first, size_t last) {
  uint16_t *tables = gemm->scratch;
  int32_t *sums = (int32_t *)(void *)((char *)gemm->scratch + EDGE_TRITS_BYTES);
  const size_t k = gemm->k, groups = (k + 4) / 5, rows = last - first;
  for (size_t r = 0; r < gemm->rows; ++r) {
    const int8_t *codes = gemm->codes + r * gemm->padded;
    const uint8_t *weight = gemm->weight;
    int32_t added = 0;
    for (size_t i = 0; i < rows; ++i) sums[i] = 0;
    for (size_t g = 0, pass; g < groups; g += pass, weight += gemm->n * pass) {
      pass = groups - g >= 8 ? 8 : groups - g >= 4 ? 4 : 1;
      const uint8_t *from = weight + first * pass;
#if EDGE_TRITS_TABLES == 4
      if (pass == 8) {
        added += make_tables(codes, k, g, 4, tables);
        edge_trits_four_of_eight(from, tables, sums, rows);
        added += make_tables(codes, k, g + 4, 4, tables);
        edge_trits_four_of_eight(from + 4, tables, sums, rows);
        continue;
      }
#endif
      added += make_tables(codes, k, g, pass, tables);
#if EDGE_TRITS_TABLES == 8
      if (pass == 8) edge_trits_eight(from, tables, sums, rows);
#endif
      if (pass == 4) edge_trits_four(from, tables, sums, rows);
      if (pass > 1) continue;
      for (size_t i = 0; i < rows; ++i) sums[i] += tables[from[i]];
    }
    edge_micro_finish(gemm, r, first, rows, sums, added);
  }
}

#endif
