/* How ternary weights lie in a program: row-major, as every kernel of a big machine takes them, or in the layout of a
 * microcontroller's kernels, which read them in place from flash. `edge export --target` chooses.
 *
 * The tensor's shape names the layout, so that it is checked without reading a byte, and ExecuTorch's planner sees the
 * number of outputs: uint8 [N, row bytes] followed by as many sizes of 1 as the layout's number. The bytes do not lie
 * row by row then. N outputs, K weights each, w in -1, 0, 1; docs/operators.md draws them.
 *
 *   rows    [N, ceil(K/4)]           code w + 1 in 2 bits, four a byte, the first lowest
 *   pairs   [N, 2 ceil(K/8), 1]      SMLAD of two outputs at once (Cortex-M4, M7, M33): see below
 *   trits   [N, ceil(K/5), 1, 1]     five weights a byte, an index into a table of sums (Cortex-M0, M3, RV32)
 *   planes  [N, ceil(K/4), 1, 1, 1]  fields of a byte are whole vectors apart (Cortex-M55)
 *
 * pairs: outputs in blocks of eight, the last of fewer. A block holds, for each eight columns, one little-endian word an
 * output pair (a, b); then, if its outputs are odd, the last one's columns as `rows` has them, padded to eight. In a
 * word, 16-bit lane l of step s is column {0, 1, 4, 5}[s] + 2l of the eight: w_a + 1 in bits 0 and 1, w_b in two's
 * complement in bits 14 and 15; the word is the `or` of the steps, step s rotated left by 4s bits.
 *
 * trits: with d_j = w + 1 of column 5g + j, c = d_0 + 3 d_1 + 9 d_2 and b = d_3 + 3 d_4, byte g of a row is 14 b + c, and 112
 * more where c is 14 or more: the kernels' table of sums, two entries a word, has the first seven words of each of nine
 * blocks and then the others. Bytes of all rows follow each other in passes: eight bytes a row as long as there are eight,
 * then four if there are, then one by one. Bytes that no digits give have no meaning.
 *
 * planes: row by row; a row in tiles of 64 columns (the last: of the r that are left). Byte i of a tile holds in bits
 * 2f and 2f + 1 code w + 1 of column f q + i, where q = ceil(r/4) is the tile's bytes.
 *
 * Columns that are not there have w = 0.
 */
#ifndef EDGE_LAYOUTS_H
#define EDGE_LAYOUTS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum edge_layout {
  EDGE_LAYOUT_ROWS = 0,
  EDGE_LAYOUT_PAIRS,
  EDGE_LAYOUT_TRITS,
  EDGE_LAYOUT_PLANES,
  EDGE_LAYOUT_COUNT,
} edge_layout;

/* "pairs"; as runtime/target.py spells them. */
const char *edge_layout_name(int layout);
/* Bytes that a row takes in a layout, on average where rows do not lie one by one: of n rows, exactly n times so many. */
size_t edge_layout_row_bytes(int layout, size_t k);
/* Writes `weight`, in any layout but rows, as rows. */
void edge_layout_to_rows(int layout, size_t n, size_t k, const uint8_t *weight, uint8_t *rows);

#ifdef __cplusplus
}
#endif
#endif
