/* Of libm what the core calls. */
#include "math.h"

#include <stdint.h>
#include <string.h>

#if defined(__ARM_FP) && (__ARM_FP & 4)
float sqrtf(float x) {
  __asm__("vsqrt.f32 %0, %1" : "=t"(x) : "t"(x));
  return x;
}
#else
/* One bit of the root at a time, and rounded to the nearest: what hardware gives. */
float sqrtf(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if ((bits & 0x7FFFFFFFu) == 0 || bits == 0x7F800000u || x != x) return x;
  if (bits >> 31 != 0) return NAN;
  int32_t exponent = (int32_t)(bits >> 23);
  uint32_t mantissa = bits & 0x7FFFFFu;
  if (exponent == 0) {
    exponent = 1;
    while (mantissa >> 23 == 0) mantissa <<= 1, --exponent;
  } else {
    mantissa |= 0x800000u;
  }
  exponent -= 127;
  if (exponent & 1) mantissa <<= 1, --exponent;
  /* mantissa is in 2^23 .. 2^25: the root of mantissa * 2^25 has 25 bits, the last of them for rounding. */
  uint32_t root = 0, rest = 0;
  for (int i = 0; i < 25; ++i) {
    /* Two more bits of the number; those below the mantissa are 0. */
    rest = rest << 2 | (mantissa >> 23 & 3);
    mantissa = mantissa << 2 & 0x1FFFFFFu;
    const uint32_t trial = root << 2 | 1;
    root <<= 1;
    if (rest >= trial) rest -= trial, root |= 1;
  }
  /* A root is never exactly between two floats. */
  root = (root >> 1) + (root & 1);
  const uint32_t out = ((uint32_t)(exponent / 2 + 127) << 23) + (root - 0x800000u);
  memcpy(&x, &out, 4);
  return x;
}
#endif

/* To the nearest, halves to the even one: adding 2^23 leaves no bits behind the point. */
float rintf(float x) {
  const float shift = 8388608.0f, a = fabsf(x);
  if (!(a < shift)) return x;
  volatile float sum = a + shift;
  const float whole = sum - shift;
  return __builtin_copysignf(whole, x);
}

double floor(double x) {
  if (!(fabs(x) < 4503599627370496.0)) return x;
  const double whole = (double)(int64_t)x;
  return whole > x ? whole - 1.0 : __builtin_copysign(whole, x);
}

double ceil(double x) { return -floor(-x); }
float floorf(float x) { return (float)floor((double)x); }
float ceilf(float x) { return (float)ceil((double)x); }
float truncf(float x) { return fabsf(x) < 8388608.0f ? __builtin_copysignf((float)(int32_t)x, x) : x; }

float fmodf(float x, float y) {
  if (x != x || y != y || y == 0.0f || isinf(x)) return NAN;
  double a = fabs((double)x);
  const double b = fabs((double)y);
  while (a >= b) {
    double step = b;
    while (step + step <= a) step += step;
    a -= step;
  }
  return __builtin_copysignf((float)a, x);
}

static double scaled(double x, int32_t exponent) {
  for (; exponent > 1000; exponent -= 1000) x *= 0x1p1000;
  for (; exponent < -1000; exponent += 1000) x *= 0x1p-1000;
  const uint64_t bits = (uint64_t)(exponent + 1023) << 52;
  double power;
  memcpy(&power, &bits, 8);
  return x * power;
}

double exp(double x) {
  if (x != x) return x;
  if (x > 709.79) return (double)INFINITY;
  if (x < -745.2) return 0.0;
  const double n = floor(x * 1.4426950408889634 + 0.5);
  const double r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
  double term = 1.0, sum = 1.0;
  for (int i = 1; i < 16; ++i) {
    term *= r / i;
    sum += term;
  }
  return scaled(sum, (int32_t)n);
}

double log(double x) {
  if (x != x || x < 0.0) return (double)NAN;
  if (x == 0.0) return -(double)INFINITY;
  if (isinf(x)) return x;
  int32_t exponent = 0;
  uint64_t bits;
  if (x < 0x1p-1022) x *= 0x1p54, exponent = -54;
  memcpy(&bits, &x, 8);
  exponent += (int32_t)(bits >> 52) - 1023;
  bits = (bits & 0xFFFFFFFFFFFFFu) | 0x3FF0000000000000u;
  memcpy(&x, &bits, 8);
  if (x > 1.4142135623730951) x *= 0.5, ++exponent;
  /* 2 artanh(s) */
  const double s = (x - 1.0) / (x + 1.0), z = s * s;
  double sum = 0.0;
  for (int i = 23; i > 1; i -= 2) sum = (sum + 1.0 / i) * z;
  return 2.0 * s * (1.0 + sum) + exponent * 0.6931471805599453;
}

double pow(double x, double y) {
  if (y == 0.0 || x == 1.0) return 1.0;
  if (x != x || y != y) return (double)NAN;
  const double whole = floor(y);
  /* From 2^53 on every float is even. */
  const int odd = whole == y && fabs(y) < 9007199254740992.0 && floor(y * 0.5) * 2.0 != y;
  if (x == 0.0) {
    if (y < 0.0) return odd ? __builtin_copysign((double)INFINITY, x) : (double)INFINITY;
    return odd ? x : 0.0;
  }
  if (x < 0.0) {
    if (isinf(x)) return y < 0.0 ? (odd ? -0.0 : 0.0) : odd ? x : -x;
    if (isinf(y)) return x == -1.0 ? 1.0 : pow(-x, y);
    if (whole != y) return (double)NAN;
    const double size = pow(-x, y);
    return odd ? -size : size;
  }
  if (isinf(y)) return (y > 0.0) == (x > 1.0) ? (double)INFINITY : 0.0;
  if (fabs(y) <= 64.0 && whole == y) {
    double product = 1.0;
    for (int i = 0; i < (int)fabs(y); ++i) product *= x;
    return y < 0.0 ? 1.0 / product : product;
  }
  return exp(y * log(x));
}

float expf(float x) { return (float)exp((double)x); }
float expm1f(float x) { return fabsf(x) < 1e-9f ? x : (float)(exp((double)x) - 1.0); }
float logf(float x) { return (float)log((double)x); }
float powf(float x, float y) { return (float)pow((double)x, (double)y); }

/* sin and cos of r in -pi/4 .. pi/4. */
static double sine(double r) {
  const double z = r * r;
  double sum = 0.0;
  for (int i = 16; i > 0; i -= 2) sum = (1.0 + sum) * -z / ((double)i * (i + 1));
  return r * (1.0 + sum);
}

static double cosine(double r) {
  const double z = r * r;
  double sum = 0.0;
  for (int i = 17; i > 0; i -= 2) sum = (1.0 + sum) * -z / ((double)i * (i + 1));
  return 1.0 + sum;
}

/* `quarter` turns on. Beyond 2^30 the quarter itself is lost, and the result any number from -1 to 1. */
static float turned(float x, int64_t quarter) {
  if (!isfinite(x)) return NAN;
  double a = (double)x;
  if (fabs(a) > 1073741824.0) a = 0.0;
  const double n = floor(a * 0.6366197723675814 + 0.5);
  const double r = (a - n * 1.57079632673412561417) - n * 6.07710050650619224932e-11;
  switch (((int64_t)n + quarter) & 3) {
    case 0: return (float)sine(r);
    case 1: return (float)cosine(r);
    case 2: return (float)-sine(r);
    default: return (float)-cosine(r);
  }
}

float sinf(float x) { return turned(x, 0); }
float cosf(float x) { return turned(x, 1); }
