/* Nordic nRF52840 DK: the UART goes to the interface chip by pins 6 and 8. */
#include "drivers/cortex_m.h"
#include "drivers/nrf.h"
#include "start/common.h"

void board_start(void) {
  EDGE_REGISTER(0x40000000) = 1; /* CLOCK: the crystal, for the UART's baud rate */
  timer_start();
  uart_start(6, 8);
}

int board_read(void) { return uart_read(); }
void board_write(const uint8_t *bytes, size_t count) { write_bytes(bytes, count, uart_write); }

void board_idle(void) { sleep_until(EDGE_UART_IRQ); }

uint32_t board_ticks(void) { return timer_read(); }
uint32_t board_random(void) { return rng_read(); }

const uint8_t *board_storage(void) { return (const uint8_t *)EDGE_STORAGE_ORIGIN; }

bool board_storage_erase(uint32_t offset) {
  nvmc_erase(EDGE_STORAGE_ORIGIN + offset);
  return true;
}

bool board_storage_program(uint32_t offset, const uint8_t *from, size_t bytes) {
  if (!is_erased(offset, bytes)) return false;
  nvmc_program(EDGE_STORAGE_ORIGIN + offset, from, bytes);
  return memcmp(board_storage() + offset, from, bytes) == 0;
}

_Noreturn void board_reset(void) { reset_cortex_m(); }

void board_watchdog_feed(void) { wdt_feed(); }
