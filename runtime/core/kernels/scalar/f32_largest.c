/* The largest of some vectors, element by element: of equal zeros the first, and the last NaN, as in torch's pooling. */
#include "kernels/scalar/scalar.h"

void edge_f32_largest__scalar(size_t n, size_t count, const float *const *x, float *out) {
  for (size_t i = 0; i < n; ++i) {
    float best = x[0][i];
    for (size_t j = 1; j < count; ++j) best = ((x[j][i] > best) | (x[j][i] != x[j][i])) ? x[j][i] : best;
    out[i] = best;
  }
}
