#ifndef EDGE_DRIVERS_MPS_BOARD_H
#define EDGE_DRIVERS_MPS_BOARD_H

/* Arm's FPGA boards MPS2 and MPS3, which differ in addresses alone: boards/mps*.toml have them. They have no flash:
 * storage is RAM. */
#include "drivers/cmsdk.h"
#include "drivers/cortex_m.h"
#include "start/common.h"

static uint32_t random_state;

void board_start(void) {
  uart_start();
  systick_start();
}

int board_read(void) { return uart_read(); }
void board_write(const uint8_t *bytes, size_t count) { write_bytes(bytes, count, uart_write); }

void board_idle(void) {
  if (edge_is_emulated()) edge_page_write(EDGE_PAGE_WAIT, 1);
  else sleep_until(EDGE_UART_IRQ);
}

uint32_t board_ticks(void) { return edge_is_emulated() ? edge_page_read(EDGE_PAGE_TICKS) : systick_read(); }

uint32_t board_random(void) {
  return edge_is_emulated() ? edge_page_read(EDGE_PAGE_RANDOM) : mix_random(&random_state, systick_read());
}

const uint8_t *board_storage(void) { return (const uint8_t *)EDGE_STORAGE_ORIGIN; }

bool board_storage_erase(uint32_t offset) {
  if (edge_is_emulated()) return edge_page_erase(offset);
  return erase_memory((uint8_t *)EDGE_STORAGE_ORIGIN, offset);
}

bool board_storage_program(uint32_t offset, const uint8_t *from, size_t bytes) {
  if (edge_is_emulated()) return edge_page_program(offset, from, bytes);
  return program_memory((uint8_t *)EDGE_STORAGE_ORIGIN, offset, from, bytes);
}

_Noreturn void board_reset(void) {
  if (edge_is_emulated()) edge_page_write(EDGE_PAGE_RESET, 1);
  reset_cortex_m();
}

void board_watchdog_feed(void) {
  if (edge_is_emulated()) edge_page_write(EDGE_PAGE_FEED, 1);
}

#endif
