/* What every Cortex-M has: sleep until an interrupt is pending, a counter of 24 bits, reset. */
#ifndef EDGE_DRIVERS_CORTEX_M_H
#define EDGE_DRIVERS_CORTEX_M_H

#include "registers.h"

#define SYSTICK_CTRL 0xE000E010u
#define SYSTICK_LOAD 0xE000E014u
#define SYSTICK_VALUE 0xE000E018u
#define NVIC_ENABLE 0xE000E100u
#define NVIC_DISABLE 0xE000E180u
#define NVIC_UNPEND 0xE000E280u
#define SCB_RESET 0xE000ED0Cu

/* Counts the wraps of SysTick; start/cortex_m.c. */
extern volatile uint32_t edge_systick_wraps;

static inline void systick_start(void) {
  EDGE_REGISTER(SYSTICK_LOAD) = 0xFFFFFF;
  EDGE_REGISTER(SYSTICK_VALUE) = 0;
  EDGE_REGISTER(SYSTICK_CTRL) = 7;
}

/* Cycles since systick_start. */
static inline uint32_t systick_read(void) {
  uint32_t wraps, value;
  do {
    wraps = edge_systick_wraps;
    value = EDGE_REGISTER(SYSTICK_VALUE) & 0xFFFFFF;
  } while (wraps != edge_systick_wraps);
  return (wraps << 24) + (0xFFFFFF - value);
}

/* Sleeps until the interrupt is pending (the handler is not run) or another comes in. */
static inline void sleep_until(uint32_t irq) {
  const uint32_t word = irq / 32 * 4, bit = 1u << irq % 32;
  __asm__ volatile("cpsid i" ::: "memory");
  EDGE_REGISTER(NVIC_ENABLE + word) = bit;
  __asm__ volatile("dsb\n wfi" ::: "memory");
  EDGE_REGISTER(NVIC_DISABLE + word) = bit;
  EDGE_REGISTER(NVIC_UNPEND + word) = bit;
  __asm__ volatile("cpsie i" ::: "memory");
}

static inline _Noreturn void reset_cortex_m(void) {
  __asm__ volatile("dsb" ::: "memory");
  EDGE_REGISTER(SCB_RESET) = 0x05FA0004;
  for (;;) {
  }
}

#endif
