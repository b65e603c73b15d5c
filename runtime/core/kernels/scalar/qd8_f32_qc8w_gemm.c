/* int8 activations times int8 weights.
 *
 *   acc[r][n] = sum over k of codes[r][k] * weight[n][k]      exact in int32 for k <= 131071
 */
#include "kernels/scalar/dot.h"
#include "kernels/scalar/epilogue.h"
#include "kernels/scalar/scalar.h"

void edge_qd8_f32_qc8w_gemm__scalar(const edge_qd8_gemm *gemm, size_t first, size_t last) {
  for (size_t o = first; o < last; ++o) {
    const int8_t *weight = (const int8_t *)gemm->weight + o * gemm->k;
    for (size_t r = 0; r < gemm->rows; ++r) {
      const int32_t acc = edge_dot_s8(gemm->k, gemm->codes + r * gemm->padded, weight);
      edge_store(&gemm->out, r, o, edge_dequantize(acc, o, &gemm->row[r], &gemm->epilogue));
    }
  }
}
