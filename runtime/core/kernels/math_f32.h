/* exp, erf, tanh and the activation functions in float32: multiply, add and bit moves only.
 *
 * Of libm only rintf and fabsf, which are exact, so that every target, the numpy oracle (export/reference_math.py, which
 * mirrors this file operation by operation) and vectorized kernels agree to the last bit. Build without contraction
 * (-ffp-contract=off).
 * The polynomials are weighted minimax fits. Largest relative errors, measured over all floats from 1e-10 up to the
 * ends of the range: exp 8.2e-8, tanh 1.5e-7, erf 1.1e-7. Results of exp below 2^-126 are flushed to zero.
 */
#ifndef EDGE_MATH_F32_H
#define EDGE_MATH_F32_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* As the operators number them. */
enum {
  EDGE_ACT_NONE = 0,
  EDGE_ACT_RELU = 1,
  EDGE_ACT_GELU_ERF = 2,
  EDGE_ACT_GELU_TANH = 3,
  EDGE_ACT_SILU = 4,
  EDGE_ACT_RELU6 = 5,
  EDGE_ACT_HARDSWISH = 6,
  EDGE_ACT_SIGMOID = 7,
  EDGE_ACT_TANH = 8,
  EDGE_ACT_COUNT = 9,
};

/* 2^n for n in -126 .. 127. */
static inline float edge_pow2f(int32_t n) {
  const uint32_t bits = (uint32_t)(n + 127) << 23;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

/* Firmware has these two once, in kernels/math_f32.c, and not in every kernel. */
#if defined(EDGE_BARE_METAL) && !defined(EDGE_MATH_DEFINES)
float edge_expf(float x);
float edge_activatef(float x, int activation);
#else
#ifdef EDGE_MATH_DEFINES
#define EDGE_MATH_ONCE
#else
#define EDGE_MATH_ONCE static inline
#endif

EDGE_MATH_ONCE float edge_expf(float x) {
  if (x > 88.72283f) return INFINITY;
  if (x < -87.33654f) return 0.0f;
  if (x != x) return x;
  const float n = rintf(x * 1.44269504f); /* log2(e) */
  /* ln 2 in two parts; the first has few enough bits that n times it is exact. */
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 0.0013950492f;
  p = p * r + 0.00836889f;
  p = p * r + 0.041666206f;
  p = p * r + 0.16666518f;
  p = p * r + 0.5f;
  p = p * (r * r) + r;
  p = p + 1.0f;
  const int32_t exponent = (int32_t)n; /* -126 .. 128: in two steps, because 2^128 is no float */
  const int32_t half = exponent >> 1;
  return p * edge_pow2f(half) * edge_pow2f(exponent - half);
}
#endif

static inline float edge_tanhf(float x) {
  const float a = fabsf(x);
  if (a < 0.625f) {
    const float z = x * x;
    float p = -0.0057170447f;
    p = p * z + 0.020650586f;
    p = p * z + -0.053743497f;
    p = p * z + 0.13331491f;
    p = p * z + -0.33333284f;
    return p * z * x + x;
  }
  const float y = 1.0f - 2.0f / (edge_expf(a + a) + 1.0f);
  return x < 0.0f ? -y : y;
}

static inline float edge_erff(float x) {
  const float a = fabsf(x);
  if (a < 1.0f) {
    const float z = x * x;
    float p = 7.889123e-05f;
    p = p * z + -0.0008020842f;
    p = p * z + 0.0051895357f;
    p = p * z + -0.026854444f;
    p = p * z + 0.112836f;
    p = p * z + -0.37612626f;
    p = p * z + 0.12837917f;
    return p * x + x;
  }
  if (a > 4.0f) return x < 0.0f ? -1.0f : 1.0f; /* erfc(4) is 1.5e-8 */
  /* The polynomial is log(erfc(a)). */
  float p = 0.00018557407f;
  p = p * a + -0.002939608f;
  p = p * a + 0.02180532f;
  p = p * a + -0.10303737f;
  p = p * a + -0.6382257f;
  p = p * a + -1.12704f;
  p = p * a + -0.00035371876f;
  const float y = 1.0f - edge_expf(p);
  return x < 0.0f ? -y : y;
}

static inline float edge_sigmoidf(float x) { return 1.0f / (1.0f + edge_expf(-x)); }
static inline float edge_siluf(float x) { return x / (1.0f + edge_expf(-x)); }
/* x times the normal distribution function. Not by edge_erff: one polynomial of x^2, for erf(x / sqrt 2) / x on
 * -5.1 .. 5.1, is enough where 1 is added, and takes a third of its time. Largest error: 8.7e-7, and 2e-7 of |x|. */
static inline float edge_geluf(float x) {
  const float z = x * x;
  if (z > 26.01f) return x < 0.0f ? 0.0f : x;
  const float t = z * 0.0768935f - 1.0f;
  float p = -0.00070253015f;
  p = p * t + 0.0019090344f;
  p = p * t + -0.0020443501f;
  p = p * t + 0.003265146f;
  p = p * t + -0.008327069f;
  p = p * t + 0.015187641f;
  p = p * t + -0.023179779f;
  p = p * t + 0.03429803f;
  p = p * t + -0.04822144f;
  p = p * t + 0.06355303f;
  p = p * t + -0.08042078f;
  p = p * t + 0.10155766f;
  p = p * t + -0.1380069f;
  p = p * t + 0.27721065f;
  return 0.5f * x * (p * x + 1.0f);
}
static inline float edge_gelu_tanhf(float x) {
  return 0.5f * x * (1.0f + edge_tanhf(0.79788456f * (x + 0.044715f * (x * x * x))));
}
/* NaN stays NaN in all of these. */
static inline float edge_reluf(float x) { return x < 0.0f ? 0.0f : x; }
static inline float edge_clampf(float x, float low, float high) { return x < low ? low : x > high ? high : x; }
static inline float edge_hardswishf(float x) { return x * edge_clampf(x + 3.0f, 0.0f, 6.0f) / 6.0f; }

#if !defined(EDGE_BARE_METAL) || defined(EDGE_MATH_DEFINES)
/* `activation` is one of EDGE_ACT_*. */
EDGE_MATH_ONCE float edge_activatef(float x, int activation) {
  switch (activation) {
    case EDGE_ACT_RELU: return edge_reluf(x);
    case EDGE_ACT_GELU_ERF: return edge_geluf(x);
    case EDGE_ACT_GELU_TANH: return edge_gelu_tanhf(x);
    case EDGE_ACT_SILU: return edge_siluf(x);
    case EDGE_ACT_RELU6: return edge_clampf(x, 0.0f, 6.0f);
    case EDGE_ACT_HARDSWISH: return edge_hardswishf(x);
    case EDGE_ACT_SIGMOID: return edge_sigmoidf(x);
    case EDGE_ACT_TANH: return edge_tanhf(x);
    default: return x;
  }
}
#endif

#endif
