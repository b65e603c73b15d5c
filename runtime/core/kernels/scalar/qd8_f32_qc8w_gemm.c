/* int8 activations times int8 weights.
 *
 *   acc[r][n] = sum over k of codes[r][k] * weight[n][k]      exact in int32 for k <= 131071
 */
#include "kernels/scalar/dot.h"
#include "kernels/scalar/epilogue.h"
#include "kernels/scalar/scalar.h"

void edge_qd8_f32_qc8w_gemm__scalar(size_t rows, size_t n, size_t k, const int8_t *codes, size_t padded,
                                    const edge_row *row, const uint8_t *weight, int zero_point,
                                    const edge_epilogue *epilogue, const edge_output_view *out) {
  (void)zero_point; /* two's complement needs none */
  for (size_t o = 0; o < n; ++o) {
    for (size_t r = 0; r < rows; ++r) {
      const int32_t acc = edge_dot_s8(k, codes + r * padded, (const int8_t *)weight + o * k);
      edge_store(out, r, o, edge_dequantize(acc, o, row[r].scale, epilogue));
    }
  }
}
