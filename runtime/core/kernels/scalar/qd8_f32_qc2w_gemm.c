/* int8 activations times 2-bit weights: ternary (zero point 1: codes 0, 1, 2 are -1, 0, 1) and signed 2-bit (zero
 * point 2: codes 0 .. 3 are -2 .. 1).
 *
 *   acc[r][n] = sum over k of codes[r][k] * (weight[n][k] - zero_point)      exact in int32
 *
 * Four weights a byte, the first in the lowest bits. The sum runs over the stored codes; the zero point is taken off
 * at the end as zero_point * row.sum, so the padding of the last byte meets zero activations and needs no care.
 */
#include "kernels/scalar/dot.h"
#include "kernels/scalar/epilogue.h"
#include "kernels/scalar/scalar.h"

#include <string.h>

void edge_qd8_f32_qc2w_gemm__scalar(const edge_qd8_gemm *gemm, size_t first, size_t last) {
  const size_t bytes = (gemm->k + 3) / 4;
  for (size_t o = first; o < last; ++o) {
    const uint8_t *weight = (const uint8_t *)gemm->weight + o * bytes;
    int32_t acc[EDGE_ROW_BLOCK] = {0};
    for (size_t start = 0; start < bytes; start += EDGE_UNPACK / 4) {
      const size_t count = bytes - start < EDGE_UNPACK / 4 ? bytes - start : EDGE_UNPACK / 4;
      int8_t unpacked[EDGE_UNPACK];
      for (size_t i = 0; i < count; ++i) {
        /* Spreads the four fields of a byte over the bytes of a (little-endian) word, the first lowest. */
        uint32_t word = weight[start + i];
        word = (word | word << 12) & 0x000F000Fu;
        word = (word | word << 6) & 0x03030303u;
        memcpy(unpacked + 4 * i, &word, sizeof word);
      }
      for (size_t r = 0; r < gemm->rows; ++r) {
        acc[r] += edge_dot_s8(4 * count, gemm->codes + r * gemm->padded + 4 * start, unpacked);
      }
    }
    for (size_t r = 0; r < gemm->rows; ++r) {
      const int32_t exact = acc[r] - gemm->zero_point * gemm->row[r].sum;
      edge_store(&gemm->out, r, o, edge_dequantize(exact, o, &gemm->row[r], &gemm->epilogue));
    }
  }
}
