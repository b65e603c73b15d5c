/* A page of registers that only an emulated board has: firmware_bridge/emulate/unicorn_board.py is the other side.
 *
 * The emulator writes the page's address into a word of the image that is 0 elsewhere (reserved entry 8 of a Cortex-M
 * vector table, the word behind RISC-V's first jump), so the same image runs on hardware, where the word stays 0.
 */
#ifndef EDGE_EMULATOR_PAGE_H
#define EDGE_EMULATOR_PAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "registers.h"

enum {
  EDGE_PAGE_TICKS = 0x00,   /* read: instructions so far, low 32 bits */
  EDGE_PAGE_RANDOM = 0x04,  /* read */
  EDGE_PAGE_WAIT = 0x08,    /* write: returns when a byte has come in or some milliseconds are over */
  EDGE_PAGE_RESET = 0x0C,   /* write: starts again */
  EDGE_PAGE_FEED = 0x10,    /* write: the watchdog */
  EDGE_PAGE_FAULT = 0x14,   /* write the kind: the emulator reports it and stops */
  EDGE_PAGE_OFFSET = 0x20,  /* of the storage command that follows */
  EDGE_PAGE_ADDRESS = 0x24, /* what is programmed */
  EDGE_PAGE_BYTES = 0x28,
  EDGE_PAGE_COMMAND = 0x2C, /* write 1: erase the sector at OFFSET, 2: program; then read: 1 where it was done */
};

/* In the image's first bytes: start/cortex_m.c, start/riscv32.c. */
extern const volatile uint32_t edge_emulator_page;

static inline bool edge_is_emulated(void) { return edge_emulator_page != 0; }
static inline uint32_t edge_page_read(uint32_t offset) { return EDGE_REGISTER(edge_emulator_page + offset); }
static inline void edge_page_write(uint32_t offset, uint32_t value) {
  EDGE_REGISTER(edge_emulator_page + offset) = value;
}

static inline bool edge_page_erase(uint32_t offset) {
  edge_page_write(EDGE_PAGE_OFFSET, offset);
  edge_page_write(EDGE_PAGE_COMMAND, 1);
  return edge_page_read(EDGE_PAGE_COMMAND) == 1;
}

static inline bool edge_page_program(uint32_t offset, const uint8_t *from, size_t bytes) {
  edge_page_write(EDGE_PAGE_OFFSET, offset);
  edge_page_write(EDGE_PAGE_ADDRESS, (uint32_t)(uintptr_t)from);
  edge_page_write(EDGE_PAGE_BYTES, (uint32_t)bytes);
  edge_page_write(EDGE_PAGE_COMMAND, 2);
  return edge_page_read(EDGE_PAGE_COMMAND) == 1;
}

#endif
