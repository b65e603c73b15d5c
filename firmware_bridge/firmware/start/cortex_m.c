/* The vector table and the first code of a Cortex-M. */
#include <stdint.h>

#include "drivers/cortex_m.h"
#include "emulator_page.h"

extern uint32_t edge_data_from[], edge_data[], edge_data_end[], edge_bss[], edge_bss_end[], edge_stack_top[];

int main(void);
_Noreturn void edge_reset(void);

volatile uint32_t edge_systick_wraps;

void edge_on_systick(void) { ++edge_systick_wraps; }

/* A fault: there is nobody to tell, so start again; the protocol counts resets. */
void edge_on_fault(void) {
  if (edge_is_emulated()) edge_page_write(EDGE_PAGE_FAULT, 1);
  reset_cortex_m();
}

/* Interrupts only wake the CPU: drivers/cortex_m.h never lets one be taken but SysTick. */
__attribute__((section(".vectors"), used)) const volatile uintptr_t edge_vectors[8] = {
    (uintptr_t)edge_stack_top, (uintptr_t)edge_reset,    (uintptr_t)edge_on_fault, (uintptr_t)edge_on_fault,
    (uintptr_t)edge_on_fault,  (uintptr_t)edge_on_fault, (uintptr_t)edge_on_fault, (uintptr_t)edge_on_fault,
};
__attribute__((section(".vectors.1"), used)) const volatile uint32_t edge_emulator_page = 0;
__attribute__((section(".vectors.2"), used)) const volatile uintptr_t edge_vectors_from_9[7] = {
    0, 0, (uintptr_t)edge_on_fault, (uintptr_t)edge_on_fault, 0, (uintptr_t)edge_on_fault, (uintptr_t)edge_on_systick,
};

_Noreturn void edge_reset(void) {
#if defined(__ARM_FP) || defined(__ARM_FEATURE_MVE)
  EDGE_REGISTER(0xE000ED88) |= 0xFu << 20; /* the floating-point unit */
  __asm__ volatile("dsb\n isb" ::: "memory");
#endif
  const uint32_t *from = edge_data_from;
  for (volatile uint32_t *to = edge_data; to < edge_data_end;) *to++ = *from++;
  for (volatile uint32_t *to = edge_bss; to < edge_bss_end;) *to++ = 0;
  main();
  reset_cortex_m();
}
