/* What a board gives the firmware: one C file a board implements this, beside the boards/NAME.toml that says where its
 * memories are. Nothing above it knows a register.
 *
 * Storage is the part of flash behind the firmware's code: the commit records, two model slots and the weights that
 * were learned (storage.h says where). It is read in place, at `board_storage()`, erased in sectors and programmed
 * in units of `program_bytes`, each at most once between two erasures. Power may fail at any moment of either: a sector
 * or unit may then hold anything.
 */
#ifndef EDGE_BOARD_H
#define EDGE_BOARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Written by the build from boards/NAME.toml: board_config.h, found by the compiler's include path. */
#include "board_config.h"
/*
 *   EDGE_BOARD_NAME            "lm3s6965evb"
 *   EDGE_BOARD_TARGET          "cortex-m3": the class that a manifest names
 *   EDGE_STORAGE_BYTES         of the whole storage
 *   EDGE_STORAGE_ERASE_BYTES   a sector
 *   EDGE_STORAGE_PROGRAM_BYTES a unit: 4, 8 or 16
 *   EDGE_STACK_BYTES
 */

/* Clocks, serial line, counter. Called once, after .data and .bss are set. */
void board_start(void);

/* The next byte that came in, or -1. Never waits. */
int board_read(void);
/* Sends; returns when the bytes are on their way. */
void board_write(const uint8_t *bytes, size_t count);
/* Nothing to do until a byte comes in or some time passes; may return at once. */
void board_idle(void);

/* Instructions or cycles since some moment, whatever the board counts; wraps. 0 forever where it counts nothing. */
uint32_t board_ticks(void);

/* Where storage is read; EDGE_STORAGE_BYTES long. */
const uint8_t *board_storage(void);
/* `offset` is a multiple of EDGE_STORAGE_ERASE_BYTES: the sector then reads 0xFF. */
bool board_storage_erase(uint32_t offset);
/* `offset` and `bytes` are multiples of EDGE_STORAGE_PROGRAM_BYTES, and the units are erased. */
bool board_storage_program(uint32_t offset, const uint8_t *from, size_t bytes);

/* Seconds since 1970, of a board whose board_config.h defines EDGE_BOARD_CLOCK; few know the time. */
#ifdef EDGE_BOARD_CLOCK
uint64_t board_unix_time(void);
#endif

/* Random enough that two boots do not draw the same: nonces of the protocol. */
uint32_t board_random(void);

/* All RAM that is left: the model's block, and what learning needs. At a multiple of 16. */
uint8_t *board_memory(size_t *bytes);

/* Starts again, as after power came back. */
_Noreturn void board_reset(void);
/* Resets the board unless it is fed again within some seconds; where there is no watchdog, does nothing. */
void board_watchdog_feed(void);

#endif
