/* From an exact integer accumulator to a float output.
 *
 *   y = (float)acc * (scales[n] * (1 / s_x));  y = y + bias[n];  y = activation(y);  y = residual + y
 *
 * With bitlinear_compat (PyPI bitlinear 2.4.6, whose scales[n] is the factor that the weights were multiplied by):
 *
 *   y = ((float)acc + bias[n]) / (scales[n] * s_x);  y = activation(y);  y = residual + y
 *
 * Every operation rounds to float32 once; the conversion of acc rounds to nearest even.
 */
#ifndef EDGE_KERNELS_SCALAR_EPILOGUE_H
#define EDGE_KERNELS_SCALAR_EPILOGUE_H

#include "kernels/kernels.h"
#include "kernels/math_f32.h"

static inline float edge_dequantize(int32_t acc, size_t n, const edge_row *row, const edge_epilogue *epilogue) {
  const float scale = epilogue->scales[n * epilogue->scale_step];
  float y = (float)acc;
  if (epilogue->bitlinear_compat) {
    if (epilogue->bias != NULL) y += epilogue->bias[n];
    y /= scale * row->scale;
  } else {
    y *= scale * row->step;
    if (epilogue->bias != NULL) y += epilogue->bias[n];
  }
  return edge_activatef(y, epilogue->activation);
}

static inline void edge_store(const edge_output_view *out, size_t row, size_t n, float y) {
  const size_t at = row * out->row_step + n * out->step;
  out->data[at] = out->residual != NULL ? out->residual[at] + y : y;
}

#endif
