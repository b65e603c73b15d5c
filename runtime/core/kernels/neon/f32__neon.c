/* The float kernels for NEON, and the tables of the three instruction sets that have them. */
#include "kernels/neon/neon.h"

#if defined(EDGE_HAS_NEON)

#include "kernels/scalar/scalar.h"
#include "kernels/simd/qc2w_conv2d.h"

#if defined(__aarch64__)
#include "kernels/neon/vector__neon.h"
/* for all of these, in this order */
#include "kernels/simd/math.h"
/* the norms need the moments of the first */
#include "kernels/simd/f32_qd8_quantize.h"
#include "kernels/simd/f32_rows.h"
/* which attention builds on */
#include "kernels/simd/f32_product.h"
/* likewise */
#include "kernels/simd/f32_gemm.h"
/* beside it */
#include "kernels/simd/f32_conv2d.h"

#define EDGE_FLOATS                                                            \
  .f32_qd8_quantize = quantize__neon,                                          \
  .f32_qd8_quantize_columns = quantize_columns__neon,                          \
  .f32_gemm = gemm__neon,                                                      \
  .f32_conv2d = EDGE_F32_CONV2D(neon),                                         \
  .f32_layer_norm = layer_norm__neon,                                          \
  .f32_softmax = softmax__neon,                                                \
  .f32_largest = largest__neon,                                                \
  .f32_attention = {attention_scratch_bytes__neon, attention__neon}
#define EDGE_CONVOLUTION(isa) EDGE_CONV2D(isa)
#else
/* Vectors of 32-bit ARM flush subnormal numbers; see vector__neon.h. */
#define EDGE_FLOATS                                                            \
  .f32_qd8_quantize = edge_f32_qd8_quantize__scalar,                           \
  .f32_qd8_quantize_columns = edge_f32_qd8_quantize_columns__scalar,           \
  .f32_gemm = edge_f32_gemm__scalar,                                           \
  .f32_conv2d = {.run = edge_f32_conv2d__scalar},                              \
  .f32_layer_norm = edge_f32_layer_norm__scalar,                               \
  .f32_softmax = edge_f32_softmax__scalar,                                     \
  .f32_largest = edge_f32_largest__scalar,                                     \
  .f32_attention = {edge_f32_attention_scratch__scalar, edge_f32_attention__scalar}
#define EDGE_CONVOLUTION(isa)                                                  \
  {                                                                            \
    .image_bytes = edge_qd8_conv2d_image_bytes__scalar,                        \
    .quantize = edge_qd8_conv2d_quantize__scalar,                              \
    .run = edge_qd8_f32_qc8w_conv2d__scalar                                    \
  }
#undef EDGE_ATTENTION
#define EDGE_ATTENTION(isa) {edge_qd8_attention_scratch__scalar, edge_qd8_attention__scalar}
#endif

/* SMMLA has nothing for convolutions and attention, whose rows are not arranged in pairs. */
#define EDGE_TABLE(name, convolution)                                          \
  const edge_kernels edge_kernels_##name = {                                   \
      .isa = #name,                                                            \
      EDGE_FLOATS,                                                             \
      .qd8_f32_qc2w = EDGE_GEMM(qd8_f32_qc2w, name),                           \
      .qd8_f32_qc4w = EDGE_GEMM(qd8_f32_qc4w, name),                           \
      .qd8_f32_qc8w = EDGE_GEMM(qd8_f32_qc8w, name),                           \
      .qd8_f32_qc8w_conv2d = EDGE_CONVOLUTION(convolution),                    \
      .qd8_f32_qc2w_conv2d = EDGE_TERNARY_CONV2D(name),                        \
      .qd8_attention = EDGE_ATTENTION(convolution),                            \
  }

#if defined(__aarch64__)
#define EDGE_IMAGE(isa) edge_qd8_conv2d_image_bytes__##isa, edge_qd8_conv2d_quantize__##isa
#else
#define EDGE_IMAGE(isa) plain_image_bytes, plain_quantize
/* Without vectors; the same image. */
static size_t plain_image_bytes(const edge_conv2d *shape) {
  const taps_layout layout = taps_layout_of(shape);
  return layout.across * layout.down * layout.channels;
}
static void plain_quantize(const edge_conv2d *shape, const float *x, bool channels_last, void *image, edge_row *row) {
  const taps_layout layout = taps_layout_of(shape);
  const size_t plane = (size_t)shape->height * (size_t)shape->width, width = (size_t)shape->width;
  const size_t step = channels_last ? layout.channels : 1, channel = channels_last ? 1 : plane;
  *row = edge_scale_of_sample(layout.channels * plane, x);
  memset(image, 0, layout.across * layout.down * layout.channels);
  for (size_t y = 0; y < (size_t)shape->height; ++y) {
    const size_t first = (y + (size_t)shape->padding_h) * layout.across + (size_t)shape->padding_w;
    int8_t *to = (int8_t *)image + first * layout.channels;
    for (size_t i = 0; i < width; ++i) {
      const float *from = x + (y * width + i) * step;
      for (size_t c = 0; c < layout.channels; ++c) *to++ = edge_code_of(from[c * channel], row->scale, -127.0f);
    }
  }
}
#endif

EDGE_DEFINE_TERNARY_CONV2D(neon, EDGE_IMAGE(neon))
EDGE_TABLE(neon, neon);
#if defined(__aarch64__)
EDGE_DEFINE_TERNARY_CONV2D(neon_dotprod, EDGE_IMAGE(neon_dotprod))
EDGE_DEFINE_TERNARY_CONV2D(neon_i8mm, EDGE_IMAGE(neon_dotprod))
EDGE_TABLE(neon_dotprod, neon_dotprod);
EDGE_TABLE(neon_i8mm, neon_dotprod);
#endif

#endif
