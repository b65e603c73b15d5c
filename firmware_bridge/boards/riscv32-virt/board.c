/* QEMU's RISC-V machine `virt`. It has no flash that is programmed in place: storage is RAM. */
#include "drivers/ns16550.h"
#include "drivers/memory_storage.h"
#include "start/common.h"

#define PLIC 0x0C000000u /* interrupt controller */
#define TEST 0x00100000u /* writing 0x7777 resets the machine */

static uint32_t random_state;

static uint32_t instructions(void) {
  uint32_t count;
  __asm__ volatile("csrr %0, minstret" : "=r"(count));
  return count;
}

void board_start(void) {
  uart_start();
  if (edge_is_emulated()) return;
  EDGE_REGISTER(PLIC + 4 * EDGE_UART_IRQ) = 1;               /* its priority */
  EDGE_REGISTER(PLIC + 0x2000) = 1u << EDGE_UART_IRQ;        /* enabled for this CPU in machine mode */
  EDGE_REGISTER(PLIC + 0x200000) = 0;                        /* above any threshold */
  __asm__ volatile("csrw mie, %0" ::"r"(1 << 11));           /* external interrupts end a wfi; mstatus keeps them off */
}

int board_read(void) { return uart_read(); }
void board_write(const uint8_t *bytes, size_t count) { write_bytes(bytes, count, uart_write); }

void board_idle(void) {
  if (edge_is_emulated()) {
    edge_page_write(EDGE_PAGE_WAIT, 1);
    return;
  }
  __asm__ volatile("wfi" ::: "memory");
  const uint32_t claimed = EDGE_REGISTER(PLIC + 0x200004);
  if (claimed != 0) EDGE_REGISTER(PLIC + 0x200004) = claimed;
}

uint32_t board_ticks(void) { return edge_is_emulated() ? edge_page_read(EDGE_PAGE_TICKS) : instructions(); }

uint32_t board_random(void) {
  return edge_is_emulated() ? edge_page_read(EDGE_PAGE_RANDOM) : mix_random(&random_state, instructions());
}

_Noreturn void board_reset(void) {
  if (edge_is_emulated()) edge_page_write(EDGE_PAGE_RESET, 1);
  for (;;) EDGE_REGISTER(TEST) = 0x7777;
}

void board_watchdog_feed(void) {
  if (edge_is_emulated()) edge_page_write(EDGE_PAGE_FEED, 1);
}
