/* Arm's PrimeCell UART (Stellaris). Its clock must be on; 115,200 baud from 12 MHz. */
#ifndef EDGE_DRIVERS_PL011_H
#define EDGE_DRIVERS_PL011_H

#include "registers.h"

enum {
  PL011_DATA = 0x00,
  PL011_FLAGS = 0x18,
  PL011_IBRD = 0x24,
  PL011_FBRD = 0x28,
  PL011_LINE = 0x2C,
  PL011_CONTROL = 0x30,
  PL011_IMSC = 0x38
};

static inline void uart_start(void) {
  EDGE_REGISTER(EDGE_UART_BASE + PL011_CONTROL) = 0;
  EDGE_REGISTER(EDGE_UART_BASE + PL011_IBRD) = 6;
  EDGE_REGISTER(EDGE_UART_BASE + PL011_FBRD) = 33;
  EDGE_REGISTER(EDGE_UART_BASE + PL011_LINE) = 0x70; /* 8 bits, FIFOs */
  EDGE_REGISTER(EDGE_UART_BASE + PL011_IMSC) = 0x50; /* received, and received some time ago */
  EDGE_REGISTER(EDGE_UART_BASE + PL011_CONTROL) = 0x301;
}

static inline int uart_read(void) {
  if ((EDGE_REGISTER(EDGE_UART_BASE + PL011_FLAGS) & 0x10) != 0) return -1;
  return (int)(EDGE_REGISTER(EDGE_UART_BASE + PL011_DATA) & 0xFF);
}

static inline void uart_write(uint8_t byte) {
  while ((EDGE_REGISTER(EDGE_UART_BASE + PL011_FLAGS) & 0x20) != 0) {
  }
  EDGE_REGISTER(EDGE_UART_BASE + PL011_DATA) = byte;
}

#endif
