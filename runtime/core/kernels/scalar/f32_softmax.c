/* Softmax of one row.
 *
 *   e = exp(x - max);  out = e * (1 / sum of e), summed in the order of EDGE_SUM_LANES
 *
 * A row without a value above -inf (every key masked) becomes zero, as in torch's safe softmax.
 */
#include "kernels/math_f32.h"
#include "kernels/scalar/scalar.h"

void edge_f32_softmax__scalar(size_t k, const float *x, float *out) {
  float max = -INFINITY;
  bool any = false;
  for (size_t i = 0; i < k; ++i) {
    if (!(x[i] <= max)) any = true; /* a NaN is no masked key */
    if (x[i] > max) max = x[i];
  }
  if (!any) {
    for (size_t i = 0; i < k; ++i) out[i] = 0.0f;
    return;
  }
  float lane[EDGE_SUM_LANES] = {0};
  for (size_t i = 0; i < k; ++i) {
    const float e = edge_expf(x[i] - max);
    lane[i % EDGE_SUM_LANES] += e;
    out[i] = e;
  }
  const float scale = 1.0f / edge_fold_lanes(lane);
  for (size_t i = 0; i < k; ++i) out[i] *= scale;
}
