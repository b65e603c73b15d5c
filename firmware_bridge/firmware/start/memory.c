/* The RAM that nothing else uses: between .bss and the end. */
#include "board.h"

extern uint8_t edge_memory[], edge_memory_end[];

uint8_t *board_memory(size_t *bytes) {
  *bytes = (size_t)(edge_memory_end - edge_memory);
  return edge_memory;
}
