/* What the nRF51 and nRF52 families have alike: UART, flash controller, a 16 MHz timer, random numbers.
 *
 * Boards set EDGE_UART_BASE, and the pins and clock that their wiring needs before they call uart_start.
 */
#ifndef EDGE_DRIVERS_NRF_H
#define EDGE_DRIVERS_NRF_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "registers.h"

enum {
  NRF_UART_STARTRX = 0x000,
  NRF_UART_STARTTX = 0x008,
  NRF_UART_RXDRDY = 0x108,
  NRF_UART_TXDRDY = 0x11C,
  NRF_UART_INTENSET = 0x304,
  NRF_UART_ENABLE = 0x500,
  NRF_UART_PSELTXD = 0x50C,
  NRF_UART_PSELRXD = 0x514,
  NRF_UART_RXD = 0x518,
  NRF_UART_TXD = 0x51C,
  NRF_UART_BAUDRATE = 0x524,
};

static inline void uart_start(uint32_t send_pin, uint32_t receive_pin) {
  EDGE_REGISTER(EDGE_UART_BASE + NRF_UART_PSELTXD) = send_pin;
  EDGE_REGISTER(EDGE_UART_BASE + NRF_UART_PSELRXD) = receive_pin;
  EDGE_REGISTER(EDGE_UART_BASE + NRF_UART_BAUDRATE) = 0x01D7E000; /* 115,200 */
  EDGE_REGISTER(EDGE_UART_BASE + NRF_UART_ENABLE) = 4;
  EDGE_REGISTER(EDGE_UART_BASE + NRF_UART_INTENSET) = 1 << 2; /* RXDRDY */
  EDGE_REGISTER(EDGE_UART_BASE + NRF_UART_RXDRDY) = 0;
  EDGE_REGISTER(EDGE_UART_BASE + NRF_UART_STARTRX) = 1;
  EDGE_REGISTER(EDGE_UART_BASE + NRF_UART_STARTTX) = 1;
}

static inline int uart_read(void) {
  if (EDGE_REGISTER(EDGE_UART_BASE + NRF_UART_RXDRDY) == 0) return -1;
  EDGE_REGISTER(EDGE_UART_BASE + NRF_UART_RXDRDY) = 0;
  return (int)(EDGE_REGISTER(EDGE_UART_BASE + NRF_UART_RXD) & 0xFF);
}

static inline void uart_write(uint8_t byte) {
  EDGE_REGISTER(EDGE_UART_BASE + NRF_UART_TXDRDY) = 0;
  EDGE_REGISTER(EDGE_UART_BASE + NRF_UART_TXD) = byte;
  while (EDGE_REGISTER(EDGE_UART_BASE + NRF_UART_TXDRDY) == 0) {
  }
}

/* TIMER0, 32 bits wide, counting at 16 MHz. */
#define NRF_TIMER 0x40008000u

static inline void timer_start(void) {
  EDGE_REGISTER(NRF_TIMER + 0x508) = 3; /* BITMODE: 32 */
  EDGE_REGISTER(NRF_TIMER + 0x510) = 0; /* PRESCALER */
  EDGE_REGISTER(NRF_TIMER + 0x000) = 1; /* START */
}

static inline uint32_t timer_read(void) {
  EDGE_REGISTER(NRF_TIMER + 0x040) = 1; /* CAPTURE[0] */
  return EDGE_REGISTER(NRF_TIMER + 0x540);
}

/* The flash controller; the flash starts at address 0. */
#define NRF_NVMC 0x4001E000u

static inline void nvmc_wait(uint32_t mode) {
  while ((EDGE_REGISTER(NRF_NVMC + 0x400) & 1) == 0) {
  }
  EDGE_REGISTER(NRF_NVMC + 0x504) = mode; /* 0: read, 1: write, 2: erase */
}

static inline void nvmc_erase(uint32_t address) {
  nvmc_wait(2);
  EDGE_REGISTER(NRF_NVMC + 0x508) = address; /* ERASEPAGE */
  nvmc_wait(0);
}

static inline void nvmc_program(uint32_t address, const uint8_t *from, size_t bytes) {
  nvmc_wait(1);
  for (size_t i = 0; i < bytes; i += 4) {
    uint32_t word;
    memcpy(&word, from + i, 4);
    EDGE_REGISTER(address + i) = word;
    while ((EDGE_REGISTER(NRF_NVMC + 0x400) & 1) == 0) {
    }
  }
  nvmc_wait(0);
}

/* Random numbers from thermal noise. */
#define NRF_RNG 0x4000D000u

static inline uint32_t rng_read(void) {
  uint32_t value = 0;
  EDGE_REGISTER(NRF_RNG + 0x504) = 1; /* bias correction */
  EDGE_REGISTER(NRF_RNG + 0x000) = 1;
  for (int i = 0; i < 4; ++i) {
    EDGE_REGISTER(NRF_RNG + 0x100) = 0;
    while (EDGE_REGISTER(NRF_RNG + 0x100) == 0) {
    }
    value = value << 8 | (EDGE_REGISTER(NRF_RNG + 0x508) & 0xFF);
  }
  EDGE_REGISTER(NRF_RNG + 0x004) = 1;
  return value;
}

/* The watchdog, 4 seconds, which stands still while the CPU sleeps. It cannot be stopped again. */
#define NRF_WDT 0x40010000u

static inline void wdt_feed(void) {
  if (EDGE_REGISTER(NRF_WDT + 0x400) == 0) {       /* RUNSTATUS */
    EDGE_REGISTER(NRF_WDT + 0x504) = 4 * 32768 - 1; /* CRV */
    EDGE_REGISTER(NRF_WDT + 0x50C) = 0;             /* CONFIG: paused in sleep and under a debugger */
    EDGE_REGISTER(NRF_WDT + 0x508) = 1;             /* RREN */
    EDGE_REGISTER(NRF_WDT + 0x000) = 1;
  }
  EDGE_REGISTER(NRF_WDT + 0x600) = 0x6E524635; /* RR[0] */
}

#endif
