/* What a board's C file needs to be short: memory, and the calls that an emulated board answers itself. */
#ifndef EDGE_START_COMMON_H
#define EDGE_START_COMMON_H

#include "board.h"
#include "emulator_page.h"

static inline void write_bytes(const uint8_t *bytes, size_t count, void (*write)(uint8_t)) {
  for (size_t i = 0; i < count; ++i) write(bytes[i]);
}

/* Flash controllers program what is not erased as well, and leave a mixture. */
static inline bool is_erased(uint32_t offset, size_t bytes) {
  for (size_t i = 0; i < bytes; ++i) {
    if (board_storage()[offset + i] != 0xFF) return false;
  }
  return true;
}

/* Random bits where the hardware has none: the moments at which they are asked for. Good against two boots drawing the
 * same, not against somebody who measures them. */
static inline uint32_t mix_random(uint32_t *state, uint32_t ticks) {
  *state ^= ticks + 0x9E3779B9u;
  *state ^= *state << 13;
  *state ^= *state >> 17;
  *state ^= *state << 5;
  return *state;
}

#endif
