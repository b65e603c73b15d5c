/* The float epilogue in integer registers, for processors without a floating-point unit: (float)sum * factor + bias, each
 * operation rounded to nearest even as such a unit does.
 *
 * Only for usual numbers: what is zero, subnormal, huge or NaN, and what happens once in some hundred times, is left to
 * the compiler's own routines, which the caller has.
 */
#ifndef EDGE_KERNELS_MICRO_FLOATS_H
#define EDGE_KERNELS_MICRO_FLOATS_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

static inline uint32_t edge_bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

static inline float edge_of_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

/* Exponents, as they are stored, so far from the ends that neither a product with a sum below 2^24 nor a difference of
 * two such numbers leaves the usual ones. */
static inline bool edge_is_usual(uint32_t bits) { return (bits << 1 >> 24) - 32u < 190u; }

#if defined(__ARM_ARCH_ISA_THUMB) && __ARM_ARCH_ISA_THUMB == 1
#define EDGE_SHORT_PRODUCTS 1 /* 32 bits of them, and nothing counts leading zeros */

static inline uint32_t edge_leading_zeros(uint32_t x) {
  uint32_t count = 0;
  if (x >> 16 == 0) x <<= 16, count += 16;
  if (x >> 24 == 0) x <<= 8, count += 8;
  if (x >> 28 == 0) x <<= 4, count += 4;
  if (x >> 30 == 0) x <<= 2, count += 2;
  return count + 1 - (x >> 31);
}
#else
static inline uint32_t edge_leading_zeros(uint32_t x) { return (uint32_t)__builtin_clz(x); }
#endif

/* A factor: (mantissa / 2^31) 2^(exponent - 127), mantissa >= 2^31; sign is all ones where it is negative. */
typedef struct edge_factor {
  uint32_t mantissa, exponent, sign;
} edge_factor;

static inline edge_factor edge_factor_of(uint32_t bits) {
  return (edge_factor){bits << 8 | 0x80000000u, bits << 1 >> 24, (uint32_t)((int32_t)bits >> 31)};
}

/* A float: 24 bits of mantissa, the first of them bit 29; sign as above. */
typedef struct edge_float {
  uint32_t mantissa, exponent, sign;
} edge_float;

/* (float)sum * factor. */
static inline bool edge_scaled(int32_t sum, const edge_factor *factor, edge_float *y) {
  const uint32_t sign = (uint32_t)(sum >> 31), magnitude = ((uint32_t)sum ^ sign) - sign;
  uint32_t mantissa;
  if (magnitude == 0) return false;
#if defined(EDGE_SHORT_PRODUCTS)
  if (magnitude >> 16 != 0) return false;
  const uint32_t low = magnitude * (factor->mantissa << 12 >> 20);
  const uint32_t high = magnitude * (factor->mantissa >> 20) + (low >> 12), zeros = edge_leading_zeros(high);
  mantissa = high << zeros;
  if (zeros >= 12) {
    mantissa |= (low & 0xFFF) << (zeros - 12);
  } else {
    mantissa |= (low & 0xFFF) >> (12 - zeros);
  }
  y->exponent = factor->exponent + 20 - zeros;
#else
  const uint32_t zeros = edge_leading_zeros(magnitude);
  if (zeros < 8) return false;
  const uint64_t product = (uint64_t)(magnitude << zeros) * factor->mantissa;
  mantissa = (uint32_t)(product >> 32);
  y->exponent = factor->exponent + 32 - zeros;
  if ((int32_t)mantissa >= 0) {
    mantissa = (uint32_t)(product >> 31);
    --y->exponent;
  }
#endif
  /* Rounded, unless what was dropped would tell how, or there is a carry. */
  if ((mantissa & 0xFF) == 0x80) return false;
  mantissa += 0x80;
  if (mantissa < 0x80) return false;
  y->mantissa = mantissa >> 8 << 6;
  y->sign = sign ^ factor->sign;
  return true;
}

/* `mantissa` so many bits lower, where the lowest bit stands for all that is lost. */
static inline uint32_t edge_lowered(uint32_t mantissa, uint32_t by) {
  const uint32_t kept = mantissa >> by;
  return kept | (kept << by != mantissa);
}

/* y + the float that has these bits. */
static inline bool edge_sum(edge_float *y, uint32_t bits) {
  uint32_t other = (bits << 8 | 0x80000000u) >> 2;
  const uint32_t sign = (uint32_t)((int32_t)bits >> 31), exponent = bits << 1 >> 24;
  if (!edge_is_usual(bits)) return false;
  if (y->exponent >= exponent) {
    if (y->exponent - exponent > 31) return false;
    other = edge_lowered(other, y->exponent - exponent);
  } else {
    if (exponent - y->exponent > 31) return false;
    y->mantissa = edge_lowered(y->mantissa, exponent - y->exponent);
    y->exponent = exponent;
  }
  const uint32_t sum = ((y->mantissa ^ y->sign) - y->sign) + ((other ^ sign) - sign);
  if (sum == 0) return false;
  y->sign = (uint32_t)((int32_t)sum >> 31);
  uint32_t mantissa = (sum ^ y->sign) - y->sign;
#if defined(EDGE_SHORT_PRODUCTS)
  y->exponent += 2;
  while ((int32_t)mantissa >= 0) mantissa <<= 1, --y->exponent; /* three times or less, as a rule */
#else
  const uint32_t zeros = edge_leading_zeros(mantissa);
  mantissa <<= zeros;
  y->exponent += 2 - zeros;
#endif
  mantissa += 0x7F + (mantissa >> 8 & 1); /* half to even */
  if (mantissa < 0x80) return false;
  y->mantissa = mantissa >> 8 << 6;
  return true;
}

static inline uint32_t edge_float_bits(const edge_float *y) {
  return (y->sign << 31) + ((y->exponent - 1) << 23) + (y->mantissa >> 6);
}

#endif
