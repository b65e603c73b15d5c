/* Layer normalization, row by row.
 *
 *   out = (x - mean) * rstd, then * weight, then + bias;  rstd = 1 / sqrtf(variance + eps)
 *
 * Mean and (biased) variance are summed in the order of EDGE_SUM_LANES.
 */
#include "kernels/scalar/scalar.h"

void edge_f32_layer_norm__scalar(size_t rows, size_t k, const float *x, const float *weight, const float *bias,
                                 float eps, float *out, float *mean, float *rstd) {
  for (size_t r = 0; r < rows; ++r, x += k, out += k) {
    float center, factor;
    edge_f32_moments__scalar(k, x, 1, eps, &center, &factor);
    for (size_t i = 0; i < k; ++i) {
      float y = (x[i] - center) * factor;
      if (weight != NULL) y *= weight[i];
      if (bias != NULL) y += bias[i];
      out[i] = y;
    }
    if (mean != NULL) mean[r] = center;
    if (rstd != NULL) rstd[r] = factor;
  }
}
