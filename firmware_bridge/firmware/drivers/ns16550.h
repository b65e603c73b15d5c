/* The UART of PCs and of QEMU's RISC-V machine: registers of one byte. */
#ifndef EDGE_DRIVERS_NS16550_H
#define EDGE_DRIVERS_NS16550_H

#include "registers.h"

static inline void uart_start(void) {
  EDGE_REGISTER8(EDGE_UART_BASE + 2) = 7; /* FIFOs on and empty */
  EDGE_REGISTER8(EDGE_UART_BASE + 1) = 1; /* interrupt on reception */
}

static inline int uart_read(void) {
  if ((EDGE_REGISTER8(EDGE_UART_BASE + 5) & 1) == 0) return -1;
  return EDGE_REGISTER8(EDGE_UART_BASE);
}

static inline void uart_write(uint8_t byte) {
  while ((EDGE_REGISTER8(EDGE_UART_BASE + 5) & 0x20) == 0) {
  }
  EDGE_REGISTER8(EDGE_UART_BASE) = byte;
}

#endif
