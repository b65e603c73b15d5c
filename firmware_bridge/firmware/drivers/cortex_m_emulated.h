/* Waiting and starting again on boards with a Cortex-M that emulators have, too. */
#ifndef EDGE_DRIVERS_CORTEX_M_EMULATED_H
#define EDGE_DRIVERS_CORTEX_M_EMULATED_H

#include "drivers/cortex_m.h"
#include "start/common.h"

void board_idle(void) {
  if (edge_is_emulated()) edge_page_write(EDGE_PAGE_WAIT, 1);
  else sleep_until(EDGE_UART_IRQ);
}

_Noreturn void board_reset(void) {
  if (edge_is_emulated()) edge_page_write(EDGE_PAGE_RESET, 1);
  reset_cortex_m();
}

#endif
