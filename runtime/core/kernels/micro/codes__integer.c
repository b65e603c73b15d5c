/* The largest of floats, and their codes, without a floating-point unit.
 *
 * x * scale is a product of mantissas, of which the upper half is enough, in units of 2^-16, to tell the nearest integer;
 * where it is so close to a half that the rounding of the float product or the lower half could matter, the floats
 * themselves are multiplied.
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

/* The upper half of a product of mantissas with their leading ones on top, less 3 * 2^8 at most. */
static inline uint32_t upper_product(uint32_t a, uint32_t b) {
#if defined(__ARM_ARCH_ISA_THUMB) && __ARM_ARCH_ISA_THUMB == 1
  const uint32_t a1 = a >> 20, a0 = a << 12 >> 20, b1 = b >> 20, b0 = b << 12 >> 20;
  return (a1 * b1 + ((a1 * b0 + a0 * b1) >> 12)) << 8;
#else
  return (uint32_t)((uint64_t)a * b >> 32);
#endif
}

int32_t edge_micro_codes(size_t count, const float *x, size_t step, float scale, int8_t *codes, size_t code_step) {
  const uint32_t factor = bits_of(scale) << 8 | 0x80000000u;
  const uint32_t shift = 268 - (bits_of(scale) >> 23); /* of an exponent of 0: to units of 2^-16 */
  int32_t sum = 0;
  for (const float *end = x + count * step; x != end; x += step, codes += code_step) {
    const uint32_t bits = bits_of(*x), down = shift - (bits << 1 >> 24);
    int32_t code = 0;
    if (down < 32) {
      /* Between 2 below the product's units and exact, and half a unit for the rounding of the float product. */
      const uint32_t units = (upper_product(bits << 8 | 0x80000000u, factor) >> down) + 0x8003;
      const int32_t sign = (int32_t)bits >> 31;
      code = ((int32_t)(units >> 16) ^ sign) - sign;
      if ((units & 0xFFFF) <= 4) code = edge_code_of(*x, scale, -127.0f);
    }
    *codes = (int8_t)code;
    sum += code;
  }
  return sum;
}

#endif
