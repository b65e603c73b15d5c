/* What is left of two maxima; a NaN wins, as in torch's pooling, and of equal zeros the first. */
#include "kernels/scalar/scalar.h"

void edge_f32_keep_larger__scalar(size_t n, const float *x, float *best) {
  for (size_t i = 0; i < n; ++i) best[i] = ((x[i] > best[i]) | (x[i] != x[i])) ? x[i] : best[i];
}
