/* Division of 64-bit integers for ARM, where compilers call it by these names. Theirs take over 1 KB of flash, because
 * they are fast; here it only counts bytes and prints numbers. */
#if defined(__ARM_EABI__)
#include <stdint.h>

__attribute__((used)) uint64_t edge_divide_u64(uint64_t value, uint64_t by, uint64_t *rest) {
  if ((value | by) >> 32 == 0 && by != 0) {
    *rest = (uint32_t)value % (uint32_t)by;
    return (uint32_t)value / (uint32_t)by;
  }
  uint64_t quotient = 0, left = 0;
  for (int bit = 63; bit >= 0; --bit) {
    /* The bit that is shifted out of `left` counts, too. */
    const uint64_t out = left >> 63;
    left = left << 1 | (value >> bit & 1);
    if (out != 0 || left >= by) {
      left -= by;
      quotient |= (uint64_t)1 << bit;
    }
  }
  *rest = left;
  return quotient;
}

__attribute__((used)) int64_t edge_divide_s64(int64_t value, int64_t by, int64_t *rest) {
  const uint64_t a = value < 0 ? 0 - (uint64_t)value : (uint64_t)value, b = by < 0 ? 0 - (uint64_t)by : (uint64_t)by;
  uint64_t left;
  const uint64_t quotient = edge_divide_u64(a, b, &left);
  *rest = (int64_t)(value < 0 ? 0 - left : left);
  return (int64_t)((value < 0) != (by < 0) ? 0 - quotient : quotient);
}

/* The quotient is returned in r0 and r1, the rest in r2 and r3. */
#define EDGE_DIVISION(name, divide)            \
  __attribute__((naked)) void name(void) {     \
    __asm__ volatile(                          \
        "push {r6, lr}\n"                      \
        "sub sp, #16\n"                        \
        "add r6, sp, #8\n"                     \
        "str r6, [sp]\n"                       \
        "bl " #divide "\n"                     \
        "ldr r2, [sp, #8]\n"                   \
        "ldr r3, [sp, #12]\n"                  \
        "add sp, #16\n"                        \
        "pop {r6, pc}\n");                     \
  }

EDGE_DIVISION(__aeabi_uldivmod, edge_divide_u64)
EDGE_DIVISION(__aeabi_ldivmod, edge_divide_s64)
#endif
