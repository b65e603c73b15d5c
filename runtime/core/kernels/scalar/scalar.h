/* The scalar kernels by name, and the sum whose order they share. */
#ifndef EDGE_KERNELS_SCALAR_H
#define EDGE_KERNELS_SCALAR_H

#include "kernels/kernels.h"

#include <math.h>

void edge_f32_qd8_quantize__scalar(size_t rows, size_t k, const float *x, float norm_eps, bool bitlinear_compat,
                                   size_t padded, int8_t *codes, edge_row *row);
void edge_f32_qd8_quantize_columns__scalar(size_t tokens, size_t k, const float *x, size_t step, float norm_eps,
                                           bool bitlinear_compat, size_t padded, int8_t *codes, edge_row *row);
void edge_qd8_f32_qc2w_gemm__scalar(const edge_qd8_gemm *gemm, size_t first, size_t last);
void edge_qd8_f32_qc4w_gemm__scalar(const edge_qd8_gemm *gemm, size_t first, size_t last);
void edge_qd8_f32_qc8w_gemm__scalar(const edge_qd8_gemm *gemm, size_t first, size_t last);
size_t edge_qd8_conv2d_image_bytes__scalar(const edge_conv2d *shape);
void edge_qd8_conv2d_quantize__scalar(const edge_conv2d *shape, const float *x, bool channels_last, void *image,
                                      edge_row *row);
size_t edge_qd8_conv2d_row_bytes__scalar(const edge_conv2d *shape);
void edge_qd8_conv2d_quantize_rows__scalar(const edge_conv2d *shape, const float *x, bool channels_last,
                                           const edge_row *row, size_t first, size_t last, void *rows);
void edge_qd8_f32_qc8w_conv2d__scalar(const edge_qd8_conv2d *job, size_t first_row, size_t last_row);
size_t edge_qd8_f32_qc2w_conv2d_image_bytes__scalar(const edge_conv2d *shape);
void edge_qd8_f32_qc2w_conv2d_quantize__scalar(const edge_conv2d *shape, const float *x, bool channels_last,
                                               void *image, edge_row *row);
void edge_qd8_f32_qc2w_conv2d_quantize_rows__scalar(const edge_conv2d *shape, const float *x, bool channels_last,
                                                    const edge_row *row, size_t first, size_t last, void *rows);
void edge_qd8_f32_qc2w_conv2d__scalar(const edge_qd8_conv2d *job, size_t first_row, size_t last_row);
void edge_f32_gemm__scalar(size_t rows, size_t n, size_t k, edge_matrix a, edge_matrix b, const float *bias,
                           int activation, const edge_output_view *out);
void edge_f32_conv2d__scalar(const edge_f32_conv2d *conv, const edge_conv_part *part);
void edge_f32_layer_norm__scalar(size_t rows, size_t k, const float *x, const float *weight, const float *bias,
                                 float eps, float *out, float *mean, float *rstd);
void edge_f32_largest__scalar(size_t n, size_t count, const float *const *x, float *out);
void edge_f32_softmax__scalar(size_t k, const float *x, float *out);
size_t edge_f32_attention_scratch__scalar(size_t keys, size_t depth);
void edge_f32_attention__scalar(const edge_attention_head *head, size_t first, size_t last);

size_t edge_qd8_attention_scratch__scalar(size_t keys, size_t depth);
void edge_qd8_attention__scalar(const edge_attention_head *head, size_t first, size_t last);

/* The code of a value; `low` is the lowest. */
static inline int8_t edge_code_of(float x, float scale, float low) {
  float code = rintf(x * scale);
  code = code > 127.0f ? 127.0f : code < low ? low : code;
  return code == code ? (int8_t)code : 0; /* converting a NaN would be undefined */
}

/* The scale of a convolution's sample of `count` values; NaN is passed over. */
static inline edge_row edge_scale_of_sample(size_t count, const float *x) {
  float amax = 1e-5f;
  for (size_t i = 0; i < count; ++i) amax = fabsf(x[i]) > amax ? fabsf(x[i]) : amax;
  edge_row row = {.scale = (1.0f / amax) * 127.0f};
  row.step = 1.0f / row.scale;
  return row;
}

/* Folds the lanes of a sum; see EDGE_SUM_LANES. */
static inline float edge_fold_lanes(float *lane) {
  for (int width = EDGE_SUM_LANES / 2; width > 0; width /= 2) {
    for (int l = 0; l < width; ++l) lane[l] += lane[l + width];
  }
  return lane[0];
}

/* Mean and reciprocal standard deviation of k values `step` floats apart, in the order of EDGE_SUM_LANES. */
void edge_f32_moments__scalar(size_t k, const float *x, size_t step, float eps, float *mean, float *rstd);

#endif
