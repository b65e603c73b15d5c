#ifndef EDGE_DRIVERS_MPS_BOARD_H
#define EDGE_DRIVERS_MPS_BOARD_H

/* Arm's FPGA boards MPS2 and MPS3, which differ in addresses alone: boards/mps*.toml have them. They have no flash:
 * storage is RAM. */
#include "drivers/cmsdk.h"
#include "drivers/cortex_m.h"
#include "drivers/cortex_m_emulated.h"
#include "drivers/memory_storage.h"
#include "start/common.h"

static uint32_t random_state;

void board_start(void) {
  uart_start();
  systick_start();
}

int board_read(void) { return uart_read(); }
void board_write(const uint8_t *bytes, size_t count) { write_bytes(bytes, count, uart_write); }

uint32_t board_ticks(void) { return edge_is_emulated() ? edge_page_read(EDGE_PAGE_TICKS) : systick_read(); }

uint32_t board_random(void) {
  return edge_is_emulated() ? edge_page_read(EDGE_PAGE_RANDOM) : mix_random(&random_state, systick_read());
}

void board_watchdog_feed(void) {
  if (edge_is_emulated()) edge_page_write(EDGE_PAGE_FEED, 1);
}

#endif
