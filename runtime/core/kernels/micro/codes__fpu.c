/* The largest of floats, and their codes, on a Cortex-M with a floating-point unit. */
#include "kernels/micro/micro.h"

#if defined(EDGE_BARE_METAL) && defined(__ARM_FP)

#include <string.h>

/* The largest of `largest` and the doubled bits of eight values. */
static inline uint32_t largest_of_8(const float *x, uint32_t largest) {
#define LARGER(x) "cmp %0, " x ", lsl #1\n it lo\n lsllo %0, " x ", #1\n"
  __asm__("ldmia %1!, {r2, r3, r4, r5}\n" LARGER("r2") LARGER("r3") LARGER("r4") LARGER("r5")
          "ldmia %1!, {r2, r3, r4, r5}\n" LARGER("r2") LARGER("r3") LARGER("r4") LARGER("r5")
          : "+r"(largest), "+r"(x)
          :
          : "r2", "r3", "r4", "r5", "cc", "memory");
#undef LARGER
  return largest;
}

/* The codes of four values; returns the sum. vcvtr rounds half to even, as the unit does from reset on. */
static inline int32_t codes_of_4(const float *x, float scale, int8_t *codes, int32_t sum) {
  int32_t a, b, c, d;
  register float s3 __asm__("s3") = scale;
  __asm__("vldmia %5, {s4-s7}\n"
          "vmul.f32 s4, s4, s3\n vmul.f32 s5, s5, s3\n vmul.f32 s6, s6, s3\n vmul.f32 s7, s7, s3\n"
          "vcvtr.s32.f32 s4, s4\n vcvtr.s32.f32 s5, s5\n vcvtr.s32.f32 s6, s6\n vcvtr.s32.f32 s7, s7\n"
          "vmov %0, %1, s4, s5\n vmov %2, %3, s6, s7\n"
          : "=r"(a), "=r"(b), "=r"(c), "=r"(d)
          : "t"(s3), "r"(x)
          : "s4", "s5", "s6", "s7", "memory");
  codes[0] = (int8_t)a;
  codes[1] = (int8_t)b;
  codes[2] = (int8_t)c;
  codes[3] = (int8_t)d;
  return sum + a + b + c + d;
}

static inline int32_t code_of(float x, float scale) {
  float code = x * scale;
  __asm__("vcvtr.s32.f32 %0, %0" : "+t"(code));
  int32_t result;
  memcpy(&result, &code, sizeof result);
  return result;
}

uint32_t edge_micro_largest(size_t count, const float *x, size_t step, uint32_t largest) {
  size_t i = 0;
  if (step == 1) {
    for (; i + 8 <= count; i += 8) largest = largest_of_8(x + i, largest);
  }
  for (; i < count; ++i) {
    uint32_t bits;
    memcpy(&bits, x + i * step, sizeof bits);
    largest = bits << 1 > largest ? bits << 1 : largest;
  }
  return largest;
}

int32_t edge_micro_codes(size_t count, const float *x, size_t step, float scale, int8_t *codes, size_t code_step) {
  int32_t sum = 0;
  size_t i = 0;
  if (step == 1 && code_step == 1) {
    for (; i + 8 <= count; i += 8) {
      sum = codes_of_4(x + i, scale, codes + i, sum);
      sum = codes_of_4(x + i + 4, scale, codes + i + 4, sum);
    }
  }
  for (; i < count; ++i) {
    const int32_t code = code_of(x[i * step], scale);
    codes[i * code_step] = (int8_t)code;
    sum += code;
  }
  return sum;
}

#endif
