/* int8 activations times 4-bit weights (zero point 8: codes 0 .. 15 are -8 .. 7).
 *
 *   acc[r][n] = sum over k of codes[r][k] * (weight[n][k] - zero_point)      exact in int32
 *
 * Two weights a byte, the first in the low half. The zero point is taken off at the end, as in qd8_f32_qc2w_gemm.c.
 */
#include "kernels/scalar/dot.h"
#include "kernels/scalar/epilogue.h"
#include "kernels/scalar/scalar.h"

void edge_qd8_f32_qc4w_gemm__scalar(const edge_qd8_gemm *gemm, size_t first, size_t last) {
  const size_t bytes = (gemm->k + 1) / 2;
  for (size_t o = first; o < last; ++o) {
    const uint8_t *weight = (const uint8_t *)gemm->weight + o * bytes;
    int32_t acc[EDGE_ROW_BLOCK] = {0};
    for (size_t start = 0; start < bytes; start += EDGE_UNPACK / 2) {
      const size_t count = bytes - start < EDGE_UNPACK / 2 ? bytes - start : EDGE_UNPACK / 2;
      int8_t unpacked[EDGE_UNPACK];
      for (size_t i = 0; i < count; ++i) {
        const uint8_t byte = weight[start + i];
        unpacked[2 * i] = (int8_t)(byte & 15);
        unpacked[2 * i + 1] = (int8_t)(byte >> 4);
      }
      for (size_t r = 0; r < gemm->rows; ++r) {
        acc[r] += edge_dot_s8(2 * count, gemm->codes + r * gemm->padded + 2 * start, unpacked);
      }
    }
    for (size_t r = 0; r < gemm->rows; ++r) {
      const int32_t exact = acc[r] - gemm->zero_point * gemm->row[r].sum;
      edge_store(&gemm->out, r, o, edge_dequantize(exact, o, &gemm->row[r], &gemm->epilogue));
    }
  }
}
