/* Stellaris LM3S6965 evaluation board. */
#include "drivers/cortex_m.h"
#include "drivers/cortex_m_emulated.h"
#include "drivers/pl011.h"
#include "start/common.h"

/* Flash controller: program or erase at FMA, with the key. */
#define FLASH_ADDRESS 0x400FD000u
#define FLASH_DATA 0x400FD004u
#define FLASH_CONTROL 0x400FD008u
#define FLASH_KEY 0xA4420000u

static uint32_t random_state;

void board_start(void) {
  EDGE_REGISTER(0x400FE104) |= 1; /* RCGC1: UART0's clock */
  EDGE_REGISTER(0x400FE108) |= 1; /* RCGC2: port A's, whose pins 0 and 1 it has */
  EDGE_REGISTER(0x40004420) |= 3; /* GPIOAFSEL */
  EDGE_REGISTER(0x4000451C) |= 3; /* GPIODEN */
  uart_start();
  systick_start();
}

int board_read(void) { return uart_read(); }
void board_write(const uint8_t *bytes, size_t count) { write_bytes(bytes, count, uart_write); }

uint32_t board_ticks(void) { return edge_is_emulated() ? edge_page_read(EDGE_PAGE_TICKS) : systick_read(); }

uint32_t board_random(void) {
  return edge_is_emulated() ? edge_page_read(EDGE_PAGE_RANDOM) : mix_random(&random_state, systick_read());
}

const uint8_t *board_storage(void) { return (const uint8_t *)EDGE_STORAGE_ORIGIN; }

static void command(uint32_t bits) {
  EDGE_REGISTER(FLASH_CONTROL) = FLASH_KEY | bits;
  while ((EDGE_REGISTER(FLASH_CONTROL) & bits) != 0) {
  }
}

bool board_storage_erase(uint32_t offset) {
  if (edge_is_emulated()) return edge_page_erase(offset);
  EDGE_REGISTER(FLASH_ADDRESS) = EDGE_STORAGE_ORIGIN + offset;
  command(2);
  return is_erased(offset, EDGE_STORAGE_ERASE_BYTES);
}

bool board_storage_program(uint32_t offset, const uint8_t *from, size_t bytes) {
  if (edge_is_emulated()) return edge_page_program(offset, from, bytes);
  if (!is_erased(offset, bytes)) return false;
  for (size_t i = 0; i < bytes; i += 4) {
    uint32_t word;
    __builtin_memcpy(&word, from + i, 4);
    EDGE_REGISTER(FLASH_ADDRESS) = EDGE_STORAGE_ORIGIN + offset + (uint32_t)i;
    EDGE_REGISTER(FLASH_DATA) = word;
    command(1);
    if (EDGE_REGISTER(EDGE_STORAGE_ORIGIN + offset + i) != word) return false;
  }
  return true;
}

/* The first watchdog's clock is not started: QEMU has it, but counts it while the CPU sleeps. */
void board_watchdog_feed(void) {
  if (edge_is_emulated()) edge_page_write(EDGE_PAGE_FEED, 1);
}
