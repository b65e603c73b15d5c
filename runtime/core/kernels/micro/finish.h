/* The epilogue of a row of sums: scalar/epilogue.h, with what is the same for all outputs looked at once. */
#ifndef EDGE_KERNELS_MICRO_FINISH_H
#define EDGE_KERNELS_MICRO_FINISH_H

#include "kernels/micro/floats.h"
#include "kernels/scalar/epilogue.h"

#if defined(__ARM_FP)
static inline float edge_finished(int32_t sum, float scale, const float *bias, bool relu) {
  float y = (float)sum * scale;
  if (bias != NULL) y += *bias;
  return relu ? edge_reluf(y) : y;
}
#else
/* In integers where all numbers are usual. */
static inline float edge_finished(int32_t sum, float scale, const float *bias, bool relu) {
  const uint32_t bits = edge_bits_of(scale);
  const edge_factor factor = edge_factor_of(bits);
  edge_float y;
  if (edge_is_usual(bits) && edge_scaled(sum, &factor, &y) && (bias == NULL || edge_sum(&y, edge_bits_of(*bias)))) {
    return edge_of_bits(relu && y.sign ? 0 : edge_float_bits(&y));
  }
  float z = (float)sum * scale;
  if (bias != NULL) z += *bias;
  return relu ? edge_reluf(z) : z;
}
#endif

/* Outputs first .. first + count - 1 of row r, from their sums. */
static inline void edge_finish(const edge_qd8_gemm *gemm, size_t r, size_t first, size_t count, const int32_t *sums) {
  const edge_epilogue *epilogue = &gemm->epilogue;
  const edge_row *row = &gemm->row[r];
  const size_t step = gemm->out.step;
  float *out = gemm->out.data + r * gemm->out.row_step + first * step;
  if (epilogue->bitlinear_compat || epilogue->activation > EDGE_ACT_RELU || gemm->out.residual != NULL) {
    for (size_t i = 0; i < count; ++i) {
      edge_store(&gemm->out, r, first + i, edge_dequantize(sums[i], first + i, row, epilogue));
    }
    return;
  }
  const float *scales = epilogue->scales + first * epilogue->scale_step;
  const float *bias = epilogue->bias != NULL ? epilogue->bias + first : NULL;
  const bool relu = epilogue->activation == EDGE_ACT_RELU, same = epilogue->scale_step == 0;
  float scale = scales[0] * row->step;
  for (size_t i = 0; i < count; ++i) {
    if (!same) scale = scales[i] * row->step;
    out[i * step] = edge_finished(sums[i], scale, bias != NULL ? bias + i : NULL, relu);
  }
}

#endif
