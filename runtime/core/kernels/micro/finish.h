/* The epilogue of a row of sums: scalar/epilogue.h, with what is the same for all outputs looked at once. */
#ifndef EDGE_KERNELS_MICRO_FINISH_H
#define EDGE_KERNELS_MICRO_FINISH_H

#include "kernels/scalar/epilogue.h"

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
    float y = (float)sums[i] * scale;
    if (bias != NULL) y += bias[i];
    out[i * step] = relu ? edge_reluf(y) : y;
  }
}

#endif
