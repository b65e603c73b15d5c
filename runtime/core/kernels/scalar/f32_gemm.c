/* Float matrix product.
 *
 *   acc = 0;  acc = acc + a[r][k] * b[n][k] for k in order;  y = acc + bias[n];  y = activation(y);  out = residual + y
 *
 * Four outputs share a pass over the row, which keeps four independent chains of additions in flight.
 */
#include "kernels/scalar/epilogue.h"
#include "kernels/scalar/scalar.h"

void edge_f32_gemm__scalar(size_t rows, size_t n, size_t k, edge_matrix a, edge_matrix b, const float *bias,
                           int activation, const edge_output_view *out) {
  for (size_t r = 0; r < rows; ++r) {
    const float *x = a.data + r * a.row_step;
    for (size_t o = 0; o < n; o += 4) {
      const size_t lanes = n - o < 4 ? n - o : 4;
      const float *w[4];
      for (size_t l = 0; l < 4; ++l) w[l] = b.data + (o + (l < lanes ? l : 0)) * b.row_step;
      float acc[4] = {0};
      for (size_t i = 0; i < k; ++i) {
        const float value = x[i * a.step];
        for (size_t l = 0; l < 4; ++l) acc[l] += value * w[l][i * b.step];
      }
      for (size_t l = 0; l < lanes; ++l) {
        float y = acc[l];
        if (bias != NULL) y += bias[o + l];
        edge_store(out, r, o + l, edge_activatef(y, activation));
      }
    }
  }
}
