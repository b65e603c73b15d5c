/* Normalizes a row without affine parameters and quantizes it to int8 with one scale.
 *
 *   xhat = norm_eps < 0 ? x : (x - mean) * rstd     (order of the sums: EDGE_SUM_LANES)
 *   amax = max(1e-5, max |xhat|)                    NaN is passed over
 *   s_x  = (1 / amax) * 127                         as torch computes 127 / amax: with a reciprocal
 *   code = clip(round_half_even(xhat * s_x), -127, 127), and 0 where that is NaN
 *
 * bitlinear_compat: 128 in place of 127, and codes are clipped to -128 .. 127.
 */
#include "kernels/scalar/scalar.h"

#include <math.h>

void edge_f32_moments__scalar(size_t k, const float *x, size_t step, float eps, float *mean, float *rstd) {
  float lane[EDGE_SUM_LANES] = {0};
  for (size_t i = 0; i < k; ++i) lane[i % EDGE_SUM_LANES] += x[i * step];
  const float center = edge_fold_lanes(lane) / (float)k;
  for (int l = 0; l < EDGE_SUM_LANES; ++l) lane[l] = 0.0f;
  for (size_t i = 0; i < k; ++i) {
    const float d = x[i * step] - center;
    lane[i % EDGE_SUM_LANES] += d * d;
  }
  const float variance = edge_fold_lanes(lane) / (float)k;
  *mean = center;
  *rstd = 1.0f / sqrtf(variance + eps);
}

static void quantize(size_t k, const float *x, size_t step, float norm_eps, bool bitlinear_compat, size_t padded,
                     int8_t *codes, edge_row *row) {
  float mean = 0.0f, rstd = 1.0f; /* (x - 0) * 1 is x, so one loop serves both cases */
  if (norm_eps >= 0.0f) edge_f32_moments__scalar(k, x, step, norm_eps, &mean, &rstd);
  float amax = 1e-5f;
  for (size_t i = 0; i < k; ++i) {
    const float magnitude = fabsf((x[i * step] - mean) * rstd);
    amax = magnitude > amax ? magnitude : amax;
  }
  const float low = bitlinear_compat ? -128.0f : -127.0f;
  row->scale = (1.0f / amax) * (bitlinear_compat ? 128.0f : 127.0f);
  row->step = 1.0f / row->scale;
  uint32_t sum = 0; /* unsigned: a convolution's sample may be so large that it wraps, and does not use it */
  for (size_t i = 0; i < k; ++i) {
    codes[i] = edge_code_of((x[i * step] - mean) * rstd, row->scale, low);
    sum += (uint32_t)codes[i];
  }
  row->sum = (int32_t)sum;
  for (size_t i = k; i < padded; ++i) codes[i] = 0;
}

void edge_f32_qd8_quantize__scalar(size_t rows, size_t k, const float *x, float norm_eps, bool bitlinear_compat,
                                   size_t padded, int8_t *codes, edge_row *row) {
  for (size_t r = 0; r < rows; ++r) {
    quantize(k, x + r * k, 1, norm_eps, bitlinear_compat, padded, codes + r * padded, &row[r]);
  }
}

void edge_f32_qd8_quantize_columns__scalar(size_t tokens, size_t k, const float *x, size_t step, float norm_eps,
                                           bool bitlinear_compat, size_t padded, int8_t *codes, edge_row *row) {
  for (size_t t = 0; t < tokens; ++t) {
    quantize(k, x + t, step, norm_eps, bitlinear_compat, padded, codes + t * padded, &row[t]);
  }
}
