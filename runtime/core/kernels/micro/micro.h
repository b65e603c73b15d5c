/* What the kernels of all microcontrollers have in common: quantizers and convolutions that are built on what is the
 * processor's own, and the scalar kernels of what is seldom hot. Bare metal has one table, so the names are one each. */
#ifndef EDGE_KERNELS_MICRO_H
#define EDGE_KERNELS_MICRO_H

#include "kernels/scalar/scalar.h"

#if defined(EDGE_BARE_METAL)

/* The largest of `largest` and the doubled bits of `count` values `step` floats apart. */
uint32_t edge_micro_largest(size_t count, const float *x, size_t step, uint32_t largest);
/* Writes round(x * scale) of such values, none of which is beyond 127, `code_step` apart; returns their sum. */
int32_t edge_micro_codes(size_t count, const float *x, size_t step, float scale, int8_t *codes, size_t code_step);
/* Doubled bits from which on the scalar kernel quantizes. */
#if defined(__ARM_FP)
#define EDGE_MICRO_LARGEST 0xFF000000u /* infinity */
#else
#define EDGE_MICRO_LARGEST 0xE0000000u /* 2^97: exponents of the integer routines stay within a byte */
#endif

void edge_f32_qd8_quantize__micro(size_t rows, size_t k, const float *x, float norm_eps, bool bitlinear_compat,
                                  size_t padded, int8_t *codes, edge_row *row);
void edge_f32_qd8_quantize_columns__micro(size_t tokens, size_t k, const float *x, size_t step, float norm_eps,
                                          bool bitlinear_compat, size_t padded, int8_t *codes, edge_row *row);
edge_row edge_qd8_conv2d_scale__micro(size_t count, const float *x);
size_t edge_qd8_conv2d_row_bytes__micro(const edge_conv2d *shape);
size_t edge_qd8_conv2d_image_bytes__micro(const edge_conv2d *shape);
void edge_qd8_conv2d_quantize_rows__micro(const edge_conv2d *shape, const float *x, bool channels_last,
                                          const edge_row *row, size_t first, size_t last, void *rows);
void edge_qd8_f32_qc2w_conv2d_quantize_rows__micro(const edge_conv2d *shape, const float *x, bool channels_last,
                                                   const edge_row *row, size_t first, size_t last, void *rows);
void edge_qd8_conv2d_quantize__micro(const edge_conv2d *shape, const float *x, bool channels_last, void *image,
                                     edge_row *row);
size_t edge_qd8_f32_qc8w_conv2d_scratch__micro(const edge_conv2d *shape);
void edge_qd8_f32_qc8w_conv2d__micro(const edge_qd8_conv2d *conv, size_t first, size_t last);
void edge_qd8_f32_qc2w_conv2d_quantize__micro(const edge_conv2d *shape, const float *x, bool channels_last, void *image,
                                              edge_row *row);
size_t edge_qd8_f32_qc2w_conv2d_scratch__micro(const edge_conv2d *shape);
/* By way of the table's own GEMM. */
void edge_qd8_f32_qc2w_conv2d__micro(const edge_qd8_conv2d *conv, size_t first, size_t last);

/* A table with `gemm` for ternary weights in `weight_layout`, whose temporary memory `gemm_scratch` tells, or NULL. */
#define EDGE_MICRO_TABLE(name, gemm, weight_layout, gemm_scratch)                                                \
  {                                                                                                \
    .isa = name, .f32_qd8_quantize = edge_f32_qd8_quantize__micro,                                 \
    .f32_qd8_quantize_columns = edge_f32_qd8_quantize_columns__micro,                              \
    .qd8_f32_qc2w = {.run = gemm, .layout = weight_layout, .scratch_bytes = gemm_scratch},         \
    .qd8_f32_qc4w = {.run = edge_qd8_f32_qc4w_gemm__scalar},                                       \
    .qd8_f32_qc8w = {.run = edge_qd8_f32_qc8w_gemm__scalar},                                       \
    .qd8_f32_qc8w_conv2d = {.image_bytes = edge_qd8_conv2d_image_bytes__micro,                    \
                            .quantize = edge_qd8_conv2d_quantize__micro,                           \
                            .run = edge_qd8_f32_qc8w_conv2d__micro,                                \
                            .scratch_bytes = edge_qd8_f32_qc8w_conv2d_scratch__micro,              \
                            .row_bytes = edge_qd8_conv2d_row_bytes__micro,                        \
                            .scale = edge_qd8_conv2d_scale__micro,                                 \
                            .quantize_rows = edge_qd8_conv2d_quantize_rows__micro},                \
    .qd8_f32_qc2w_conv2d = {.image_bytes = edge_qd8_conv2d_image_bytes__micro,           \
                            .quantize = edge_qd8_f32_qc2w_conv2d_quantize__micro,                  \
                            .run = edge_qd8_f32_qc2w_conv2d__micro,                                \
                            .scratch_bytes = edge_qd8_f32_qc2w_conv2d_scratch__micro,              \
                            .layout = weight_layout,                                               \
                            .row_bytes = edge_qd8_conv2d_row_bytes__micro,                        \
                            .scale = edge_qd8_conv2d_scale__micro,                                 \
                            .quantize_rows = edge_qd8_f32_qc2w_conv2d_quantize_rows__micro},       \
    .f32_gemm = edge_f32_gemm__scalar, .f32_conv2d = {.run = edge_f32_conv2d__scalar},             \
    .f32_layer_norm = edge_f32_layer_norm__scalar, .f32_softmax = edge_f32_softmax__scalar,        \
    .f32_largest = edge_f32_largest__scalar,                                                       \
    .f32_attention = {edge_f32_attention_scratch__scalar, edge_f32_attention__scalar},             \
    .qd8_attention = {edge_qd8_attention_scratch__scalar, edge_qd8_attention__scalar},             \
  }

#endif
#endif
