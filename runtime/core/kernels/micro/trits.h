/* int8 activations times ternary weights in layout `trits`, by tables of sums: for processors without SIMD.
 *
 * A table holds for five columns every sum of w x, as unsigned half words to which sum |x| was added; a weight byte is the
 * place of its sum (layouts.h), and the sum of all |x| is taken off where the accumulators start. Reading past a
 * table's end, as a damaged weight could, still reads the tables.
 *
 * Memory for eight tables is there, or for four where registers do not reach further (EDGE_TRITS_TABLES).
 */
#ifndef EDGE_KERNELS_MICRO_TRITS_H
#define EDGE_KERNELS_MICRO_TRITS_H

#include "kernels/kernels.h"

#if defined(EDGE_BARE_METAL) && ((defined(__ARM_ARCH_PROFILE) && !defined(__ARM_FEATURE_DSP)) || defined(__riscv))
#define EDGE_HAS_TRITS 1

#if defined(__ARM_ARCH_ISA_THUMB) && __ARM_ARCH_ISA_THUMB == 1
#define EDGE_TRITS_TABLES 4
#else
#define EDGE_TRITS_TABLES 8
#endif

/* Entries of a table; 252 are places, the last of some blocks unused. */
#define EDGE_TRITS_TABLE 252
/* All tables, and room for what damaged weights reach. */
#define EDGE_TRITS_BYTES ((EDGE_TRITS_TABLES * EDGE_TRITS_TABLE + 8) * sizeof(uint16_t))

/* Adds to each of `rows` sums the entries that four or eight bytes of its weights name, one a table. The bytes of a row
 * follow those of the one before; for `four_of_eight` four others lie between. */
void edge_trits_four(const uint8_t *weight, const uint16_t *tables, int32_t *sums, size_t rows);
#if EDGE_TRITS_TABLES == 8
void edge_trits_eight(const uint8_t *weight, const uint16_t *tables, int32_t *sums, size_t rows);
#else
void edge_trits_four_of_eight(const uint8_t *weight, const uint16_t *tables, int32_t *sums, size_t rows);
#endif

size_t edge_trits_scratch(size_t n, size_t k);
void edge_qd8_f32_qc2w_gemm__trits(const edge_qd8_gemm *gemm, size_t first, size_t last);

/* Writes the table of five codes; returns what was added to its entries. */
int32_t edge_trits_table(const int8_t *x, uint16_t *table);
#if EDGE_TRITS_TABLES == 8 && defined(__thumb__)
#define EDGE_OWN_TABLE 1
#else
/* Writes nine blocks of seven words each: `words`, then with the digits of the fourth code added and, every third time,
 * those of the fifth: by `a`, a, `next`, a, a, next, a, a. Returns the end. */
uint32_t *edge_trits_blocks(uint32_t *table, const uint32_t *words, uint32_t a, uint32_t next);
#endif

#endif
#endif
