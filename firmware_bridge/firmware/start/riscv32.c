/* The first code of a RISC-V that starts at the first byte of its memory. */
#include <stdint.h>

#include "emulator_page.h"

extern uint32_t edge_data_from[], edge_data[], edge_data_end[], edge_bss[], edge_bss_end[];

int main(void);
void board_reset(void);

__attribute__((section(".vectors"), naked, used)) void edge_first(void) {
  __asm__ volatile(
      ".option push\n.option norvc\n"
      "j edge_enter\n"
      ".option pop\n");
}
/* The second word. */
__attribute__((section(".vectors.1"), used)) const volatile uint32_t edge_emulator_page = 0;

__attribute__((naked, used)) void edge_enter(void) {
  __asm__ volatile(
      ".option push\n.option norelax\n"
      "la gp, __global_pointer$\n"
      ".option pop\n"
      "la sp, edge_stack_top\n"
      "la t0, edge_on_trap\n"
      "csrw mtvec, t0\n"
      "j edge_reset\n");
}

/* A fault (interrupts are never taken): there is nobody to tell, so start again. */
__attribute__((used, aligned(4))) void edge_on_trap(void) {
  if (edge_is_emulated()) edge_page_write(EDGE_PAGE_FAULT, 1);
  board_reset();
}

__attribute__((used)) _Noreturn void edge_reset(void) {
  const uint32_t *from = edge_data_from;
  for (volatile uint32_t *to = edge_data; to < edge_data_end;) *to++ = *from++;
  for (volatile uint32_t *to = edge_bss; to < edge_bss_end;) *to++ = 0;
  main();
  for (;;) board_reset();
}
