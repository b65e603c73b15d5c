/* Quantizing rows on a Cortex-M with a floating-point unit; scalar/f32_qd8_quantize.c has the contract.
 *
 * The bits of |x|, doubled, order as |x| does, in integer registers; NaN and infinities lie above all numbers, and such
 * rows are the scalar kernel's. No code of others is beyond 127: x times the scale is at most 127 and its rounding.
 */
#include "kernels/armv7e_m_dsp/armv7e_m_dsp.h"

#if defined(EDGE_HAS_ARMV7E_M_DSP) && defined(__ARM_FP)

#include "kernels/scalar/scalar.h"

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

/* Codes of k values `step` floats apart; returns false where they are the scalar kernel's. */
static bool quantize(size_t k, const float *x, size_t step, size_t padded, int8_t *codes, edge_row *row) {
  uint32_t largest = 0;
  size_t i = 0;
  if (step == 1) {
    for (; i + 8 <= k; i += 8) largest = largest_of_8(x + i, largest);
  }
  for (; i < k; ++i) {
    uint32_t bits;
    memcpy(&bits, x + i * step, sizeof bits);
    largest = bits << 1 > largest ? bits << 1 : largest;
  }
  if (largest >= 0xFF000000u) return false;
  float amax;
  largest >>= 1;
  memcpy(&amax, &largest, sizeof amax);
  amax = amax > 1e-5f ? amax : 1e-5f;
  const float scale = (1.0f / amax) * 127.0f;
  row->scale = scale;
  row->step = 1.0f / scale;
  int32_t sum = 0;
  i = 0;
  if (step == 1) {
    for (; i + 8 <= k; i += 8) {
      sum = codes_of_4(x + i, scale, codes + i, sum);
      sum = codes_of_4(x + i + 4, scale, codes + i + 4, sum);
    }
  }
  for (; i < k; ++i) {
    const int32_t code = code_of(x[i * step], scale);
    codes[i] = (int8_t)code;
    sum += code;
  }
  row->sum = sum;
  for (; i < padded; ++i) codes[i] = 0;
  return true;
}

void edge_f32_qd8_quantize__armv7e_m_dsp(size_t rows, size_t k, const float *x, float norm_eps, bool bitlinear_compat,
                                         size_t padded, int8_t *codes, edge_row *row) {
  for (size_t r = 0; r < rows; ++r, x += k, codes += padded) {
    if (norm_eps >= 0.0f || bitlinear_compat || !quantize(k, x, 1, padded, codes, &row[r])) {
      edge_f32_qd8_quantize__scalar(1, k, x, norm_eps, bitlinear_compat, padded, codes, &row[r]);
    }
  }
}

void edge_f32_qd8_quantize_columns__armv7e_m_dsp(size_t tokens, size_t k, const float *x, size_t step, float norm_eps,
                                                 bool bitlinear_compat, size_t padded, int8_t *codes, edge_row *row) {
  for (size_t t = 0; t < tokens; ++t, ++x, codes += padded) {
    if (norm_eps >= 0.0f || bitlinear_compat || !quantize(k, x, step, padded, codes, &row[t])) {
      edge_f32_qd8_quantize_columns__scalar(1, k, x, step, norm_eps, bitlinear_compat, padded, codes, &row[t]);
    }
  }
}

#endif
