/* The UART of Arm's Cortex-M system design kit (MPS2, MPS3). Boards set EDGE_UART_BASE. */
#ifndef EDGE_DRIVERS_CMSDK_H
#define EDGE_DRIVERS_CMSDK_H

#include "registers.h"

enum { CMSDK_DATA = 0x00, CMSDK_STATE = 0x04, CMSDK_CTRL = 0x08, CMSDK_INTCLEAR = 0x0C, CMSDK_BAUDDIV = 0x10 };

static inline void uart_start(void) {
  EDGE_REGISTER(EDGE_UART_BASE + CMSDK_BAUDDIV) = 25000000 / 115200;
  EDGE_REGISTER(EDGE_UART_BASE + CMSDK_CTRL) = 0xB; /* send, receive, interrupt on reception */
}

static inline int uart_read(void) {
  if ((EDGE_REGISTER(EDGE_UART_BASE + CMSDK_STATE) & 2) == 0) return -1;
  EDGE_REGISTER(EDGE_UART_BASE + CMSDK_INTCLEAR) = 2;
  return (int)(EDGE_REGISTER(EDGE_UART_BASE + CMSDK_DATA) & 0xFF);
}

static inline void uart_write(uint8_t byte) {
  while ((EDGE_REGISTER(EDGE_UART_BASE + CMSDK_STATE) & 1) != 0) {
  }
  EDGE_REGISTER(EDGE_UART_BASE + CMSDK_DATA) = byte;
}

#endif
