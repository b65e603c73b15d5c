/* The largest of floats, and their codes, without a floating-point unit.
 *
 * x * scale is a product of mantissas, whose upper bits, in units of 2^-16, tell the nearest integer: the float product is
 * within half a unit of the exact one, which is up to TOO_LOW units and a half above those bits. Where they are so
 * close to a half of an integer that this matters, the floats themselves are multiplied.
 */
#include "kernels/micro/micro.h"

#if defined(EDGE_BARE_METAL) && !defined(__ARM_FP)

#include <string.h>

static inline uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

uint32_t edge_micro_largest(size_t count, const float *x, size_t step, uint32_t largest) {
  for (const float *end = x + count * step; x != end; x += step) {
    const uint32_t doubled = bits_of(*x) << 1;
    if (doubled > largest) largest = doubled;
  }
  return largest;
}

#if defined(__ARM_ARCH_ISA_THUMB) && __ARM_ARCH_ISA_THUMB == 1
/* 16 bits of each mantissa make a product of 32, which is up to (2^17 + 1) 2^-8 units too low. */
#define TOO_LOW 516
#define SHORT_PRODUCTS 1
#else
#define TOO_LOW 2
#endif

/* How x is multiplied by a scale. */
typedef struct multiplier {
  uint32_t factor; /* the mantissa, its leading one on top */
  uint32_t shift;  /* of a product of such, for an exponent of 0, to units of 2^-16 */
  uint32_t bits;   /* the scale's */
} multiplier;

/* By the floats themselves. */
int32_t edge_code_by_float(uint32_t bits, uint32_t scale_bits) {
  float x, scale;
  memcpy(&x, &bits, sizeof x);
  memcpy(&scale, &scale_bits, sizeof scale);
  return edge_code_of(x, scale, -127.0f);
}

#if defined(__thumb__)
/* Codes of the values up to `end`, side by side; returns their sum. A shift by a register gives 0 from 32 on. */
int32_t edge_micro_run_of_codes(const float *x, int8_t *codes, const float *end, const multiplier *by);

#if defined(SHORT_PRODUCTS)
_Static_assert(TOO_LOW == 516, "the code below has it written out");
__asm__(
    "  .syntax unified\n"
    "  .thumb\n"
    "  .text\n"
    "  .global edge_micro_run_of_codes\n"
    "  .type edge_micro_run_of_codes, %function\n"
    "  .thumb_func\n"
    "edge_micro_run_of_codes:\n"
    "  push {r4-r7, lr}\n"
    "  mov r4, r8\n"
    "  mov r5, r9\n"
    "  mov r6, r10\n"
    "  mov r7, r11\n"
    "  push {r4-r7}\n"
    "  mov r8, r2\n"
    "  ldr r5, [r3]\n"
    "  lsrs r5, r5, #16\n"
    "  ldr r4, [r3, #4]\n"
    "  mov r9, r4\n"
    "  ldr r4, [r3, #8]\n"
    "  mov r12, r4\n"
    "  movs r4, #0\n"
    "  mov r11, r4\n"
    "  movs r4, #128\n"
    "  lsls r4, r4, #8\n"
    "  mov r10, r4\n"
    "  movs r6, #129\n" /* 516 / 4 */
    "  lsls r6, r6, #2\n"
    "  adds r7, r6, #1\n"
    "  lsls r7, r7, #16\n"
    "  add r6, r10\n"
    "  b 3f\n"
    "1:\n"
    "  ldmia r0!, {r2}\n"
    "  lsls r3, r2, #1\n"
    "  lsrs r3, r3, #24\n"
    "  mov r4, r9\n"
    "  subs r4, r4, r3\n"
    "  lsls r3, r2, #9\n"
    "  lsrs r3, r3, #17\n"
    "  add r3, r10\n"
    "  muls r3, r5, r3\n"
    "  lsrs r3, r4\n"
    "  adds r3, r3, r6\n"
    "  lsls r4, r3, #16\n"
    "  cmp r4, r7\n"
    "  bls 4f\n"
    "  lsrs r3, r3, #16\n"
    "  asrs r2, r2, #31\n"
    "  eors r3, r2\n"
    "  subs r3, r3, r2\n"
    "2:\n"
    "  strb r3, [r1]\n"
    "  adds r1, #1\n"
    "  add r11, r3\n"
    "3:\n"
    "  cmp r0, r8\n"
    "  bne 1b\n"
    "  mov r0, r11\n"
    "  pop {r4-r7}\n"
    "  mov r8, r4\n"
    "  mov r9, r5\n"
    "  mov r10, r6\n"
    "  mov r11, r7\n"
    "  pop {r4-r7, pc}\n"
    "4:\n"
    "  mov r4, r12\n"
    "  push {r0, r1, r4}\n"
    "  sub sp, #4\n"
    "  movs r0, r2\n"
    "  mov r1, r12\n"
    "  bl edge_code_by_float\n"
    "  movs r3, r0\n"
    "  add sp, #4\n"
    "  pop {r0, r1, r4}\n"
    "  mov r12, r4\n"
    "  b 2b\n");
#else
_Static_assert(TOO_LOW == 2, "the code below has it written out");
__asm__(
    "  .syntax unified\n"
    "  .thumb\n"
    "  .text\n"
    "  .global edge_micro_run_of_codes\n"
    "  .type edge_micro_run_of_codes, %function\n"
    "  .thumb_func\n"
    "edge_micro_run_of_codes:\n"
    "  push {r3-r10, r11, lr}\n"
    "  ldrd r4, r5, [r3]\n"
    "  ldr r8, [r3, #8]\n"
    "  mov r6, #0\n"
    "  movw r7, #0x8002\n"
    "  b 3f\n"
    "1:\n"
    "  ldr r9, [r0], #4\n"
    "  ubfx r10, r9, #23, #8\n"
    "  sub r10, r5, r10\n"
    "  lsl r3, r9, #8\n"
    "  orr r3, r3, #0x80000000\n"
    "  umull r11, r3, r4, r3\n"
    "  lsr r3, r3, r10\n"
    "  add r3, r7\n"
    "  uxth r10, r3\n"
    "  cmp r10, #3\n"
    "  bls 4f\n"
    "  asr r9, r9, #31\n"
    "  eor r3, r9, r3, lsr #16\n"
    "  sub r3, r3, r9\n"
    "2:\n"
    "  strb r3, [r1], #1\n"
    "  add r6, r3\n"
    "3:\n"
    "  cmp r0, r2\n"
    "  bne 1b\n"
    "  mov r0, r6\n"
    "  pop {r3-r10, r11, pc}\n"
    "4:\n"
    "  push {r0-r2, r3}\n"
    "  mov r0, r9\n"
    "  mov r1, r8\n"
    "  bl edge_code_by_float\n"
    "  mov r9, r0\n"
    "  pop {r0-r2, r3}\n"
    "  mov r3, r9\n"
    "  b 2b\n");
#endif
#endif

static inline int32_t code_of(uint32_t bits, const multiplier *by) {
  const uint32_t down = by->shift - (bits << 1 >> 24);
#if defined(SHORT_PRODUCTS)
  const uint32_t product = ((bits << 9 >> 17) + 0x8000u) * (by->factor >> 16);
#else
  const uint32_t product = (uint32_t)((uint64_t)(bits << 8 | 0x80000000u) * by->factor >> 32);
#endif
  if (down >= 32) return 0;
  const uint32_t units = (product >> down) + 0x8000u + TOO_LOW;
  if ((units & 0xFFFF) <= TOO_LOW + 1) return edge_code_by_float(bits, by->bits);
  const int32_t sign = (int32_t)bits >> 31;
  return ((int32_t)(units >> 16) ^ sign) - sign;
}

int32_t edge_micro_codes(size_t count, const float *x, size_t step, float scale, int8_t *codes, size_t code_step) {
  const uint32_t bits = bits_of(scale);
  const multiplier by = {bits << 8 | 0x80000000u, 268 - (bits >> 23), bits};
#if defined(__thumb__)
  if (step == 1 && code_step == 1) return edge_micro_run_of_codes(x, codes, x + count, &by);
#endif
  int32_t sum = 0;
  for (const float *end = x + count * step; x != end; x += step, codes += code_step) {
    const int32_t code = code_of(bits_of(*x), &by);
    *codes = (int8_t)code;
    sum += code;
  }
  return sum;
}

#endif
