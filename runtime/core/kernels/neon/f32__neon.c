/* The float kernels for NEON, and the tables of the three instruction sets that have them. */
#include "kernels/neon/neon.h"

#if defined(EDGE_HAS_NEON)

#include "kernels/scalar/scalar.h"

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
      .qd8_f32_qc2w_conv2d = EDGE_TERNARY_CONV2D_SCALAR,                       \
      .qd8_attention = EDGE_ATTENTION(convolution),                            \
  }

EDGE_TABLE(neon, neon);
#if defined(__aarch64__)
EDGE_TABLE(neon_dotprod, neon_dotprod);
EDGE_TABLE(neon_i8mm, neon_dotprod);
#endif

#endif
