/* Quantizers of rows on a microcontroller: scalar/f32_qd8_quantize.c has the contract.
 *
 * The bits of |x|, doubled, order as |x| does and are compared as integers, which processors without a floating-point unit
 * do as well. NaN and infinities lie above all numbers; rows that have some are the scalar kernel's, and so are those
 * that are normalized first. No code of the others is beyond 127: x times the scale is at most 127 and its rounding.
 */
#include "kernels/micro/quantize.h"

#if defined(EDGE_BARE_METAL)

#include <string.h>

static bool quantize(size_t k, const float *x, size_t step, size_t padded, int8_t *codes, edge_row *row) {
  if (!edge_micro_scale_of(edge_micro_largest(k, x, step, 0), row)) return false;
  row->sum = edge_micro_codes(k, x, step, row->scale, codes, 1);
  memset(codes + k, 0, padded - k);
  return true;
}

void edge_f32_qd8_quantize__micro(size_t rows, size_t k, const float *x, float norm_eps, bool bitlinear_compat,
                                  size_t padded, int8_t *codes, edge_row *row) {
  for (size_t r = 0; r < rows; ++r, x += k, codes += padded) {
    if (norm_eps >= 0.0f || bitlinear_compat || !quantize(k, x, 1, padded, codes, &row[r])) {
      edge_f32_qd8_quantize__scalar(1, k, x, norm_eps, bitlinear_compat, padded, codes, &row[r]);
    }
  }
}

void edge_f32_qd8_quantize_columns__micro(size_t tokens, size_t k, const float *x, size_t step, float norm_eps,
                                          bool bitlinear_compat, size_t padded, int8_t *codes, edge_row *row) {
  for (size_t t = 0; t < tokens; ++t, ++x, codes += padded) {
    if (norm_eps >= 0.0f || bitlinear_compat || !quantize(k, x, step, padded, codes, &row[t])) {
      edge_f32_qd8_quantize_columns__scalar(1, k, x, step, norm_eps, bitlinear_compat, padded, codes, &row[t]);
    }
  }
}

#endif
