/* Sums by table on 32-bit RISC-V: the tables are within reach of one address, a byte takes five instructions. */
#include "kernels/rv32/rv32.h"

#if defined(EDGE_HAS_RV32)

#define LOOK(table) tables[(table) * EDGE_TRITS_TABLE + weight[table]]

void edge_trits_four(const uint8_t *weight, const uint16_t *tables, int32_t *sums, size_t rows) {
  for (const int32_t *end = sums + rows; sums != end; ++sums, weight += 4) {
    *sums += LOOK(0) + LOOK(1) + LOOK(2) + LOOK(3);
  }
}

void edge_trits_eight(const uint8_t *weight, const uint16_t *tables, int32_t *sums, size_t rows) {
  for (const int32_t *end = sums + rows; sums != end; ++sums, weight += 8) {
    *sums += LOOK(0) + LOOK(1) + LOOK(2) + LOOK(3) + LOOK(4) + LOOK(5) + LOOK(6) + LOOK(7);
  }
}

#endif
