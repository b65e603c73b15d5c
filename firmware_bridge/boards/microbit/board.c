/* BBC micro:bit: an nRF51822, whose UART goes to the interface chip by pins 24 and 25. */
#include "drivers/cortex_m.h"
#include "drivers/cortex_m_emulated.h"
#include "drivers/nrf.h"
#include "start/common.h"

void board_start(void) {
  EDGE_REGISTER(0x40000000) = 1; /* CLOCK: the crystal, for the UART's baud rate */
  timer_start();
  uart_start(24, 25);
}

int board_read(void) { return uart_read(); }
void board_write(const uint8_t *bytes, size_t count) { write_bytes(bytes, count, uart_write); }

uint32_t board_ticks(void) { return edge_is_emulated() ? edge_page_read(EDGE_PAGE_TICKS) : timer_read(); }
uint32_t board_random(void) { return edge_is_emulated() ? edge_page_read(EDGE_PAGE_RANDOM) : rng_read(); }

const uint8_t *board_storage(void) { return (const uint8_t *)EDGE_STORAGE_ORIGIN; }

bool board_storage_erase(uint32_t offset) {
  if (edge_is_emulated()) return edge_page_erase(offset);
  nvmc_erase(EDGE_STORAGE_ORIGIN + offset);
  return true;
}

bool board_storage_program(uint32_t offset, const uint8_t *from, size_t bytes) {
  if (edge_is_emulated()) return edge_page_program(offset, from, bytes);
  if (!is_erased(offset, bytes)) return false;
  nvmc_program(EDGE_STORAGE_ORIGIN + offset, from, bytes);
  return memcmp(board_storage() + offset, from, bytes) == 0;
}

void board_watchdog_feed(void) {
  if (edge_is_emulated()) edge_page_write(EDGE_PAGE_FEED, 1);
  else wdt_feed();
}
