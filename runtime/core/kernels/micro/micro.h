/* What the tables of the microcontrollers' kernels have in common: the scalar kernels of all that is seldom hot. */
#ifndef EDGE_KERNELS_MICRO_H
#define EDGE_KERNELS_MICRO_H

#include "kernels/scalar/scalar.h"

#define EDGE_MICRO_SCALAR_ENTRIES                                                              \
  .qd8_f32_qc4w = {.run = edge_qd8_f32_qc4w_gemm__scalar},                                     \
  .qd8_f32_qc8w = {.run = edge_qd8_f32_qc8w_gemm__scalar},                                     \
  .qd8_f32_qc8w_conv2d = {.image_bytes = edge_qd8_conv2d_image_bytes__scalar,                  \
                          .quantize = edge_qd8_conv2d_quantize__scalar,                        \
                          .run = edge_qd8_f32_qc8w_conv2d__scalar},                            \
  .qd8_f32_qc2w_conv2d = EDGE_TERNARY_CONV2D_SCALAR, .f32_gemm = edge_f32_gemm__scalar, .f32_conv2d = {.run = edge_f32_conv2d__scalar},           \
  .f32_layer_norm = edge_f32_layer_norm__scalar, .f32_softmax = edge_f32_softmax__scalar,      \
  .f32_largest = edge_f32_largest__scalar,                                                     \
  .f32_attention = {edge_f32_attention_scratch__scalar, edge_f32_attention__scalar},           \
  .qd8_attention = {edge_qd8_attention_scratch__scalar, edge_qd8_attention__scalar}

#endif
