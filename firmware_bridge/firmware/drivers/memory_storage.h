/* Storage that is plain memory, as QEMU's is where it has no flash: it obeys flash's rules. */
#ifndef EDGE_DRIVERS_MEMORY_STORAGE_H
#define EDGE_DRIVERS_MEMORY_STORAGE_H

#include "start/common.h"

const uint8_t *board_storage(void) { return (const uint8_t *)EDGE_STORAGE_ORIGIN; }

bool board_storage_erase(uint32_t offset) {
  if (edge_is_emulated()) return edge_page_erase(offset);
  volatile uint8_t *sector = (volatile uint8_t *)EDGE_STORAGE_ORIGIN + offset;
  for (uint32_t i = 0; i < EDGE_STORAGE_ERASE_BYTES; ++i) sector[i] = 0xFF;
  return true;
}

bool board_storage_program(uint32_t offset, const uint8_t *from, size_t bytes) {
  if (edge_is_emulated()) return edge_page_program(offset, from, bytes);
  if (!is_erased(offset, bytes)) return false;
  volatile uint8_t *unit = (volatile uint8_t *)EDGE_STORAGE_ORIGIN + offset;
  for (size_t i = 0; i < bytes; ++i) unit[i] = from[i];
  return true;
}

#endif
