/* The float kernels for AVX2 and AVX-VNNI, which has nothing of its own for floats, and the tables. */
#include "kernels/avx2/avx2.h"
#include "kernels/avxvnni/avxvnni.h"

#if defined(__x86_64__)

#include "kernels/avx2/vector__avx2.h"
#include "kernels/scalar/scalar.h"
#include "kernels/simd/qc2w_conv2d.h"

EDGE_TARGET_BEGIN(EDGE_AVX2)

#include "kernels/simd/math.h"
/* in this order */
#include "kernels/simd/f32_qd8_quantize.h"
#include "kernels/simd/f32_rows.h"
/* which attention builds on */
#include "kernels/simd/f32_product.h"
/* likewise */
#include "kernels/simd/f32_gemm.h"
/* beside it */
#include "kernels/simd/f32_conv2d.h"

EDGE_TARGET_END

#define EDGE_TABLE(name, convolution)                                    \
  const edge_kernels edge_kernels_##name = {                             \
      .isa = #name,                                                      \
      .f32_qd8_quantize = quantize__avx2,                                \
      .f32_qd8_quantize_columns = quantize_columns__avx2,                \
      .qd8_f32_qc2w = EDGE_GEMM(qd8_f32_qc2w, name),                     \
      .qd8_f32_qc4w = EDGE_GEMM(qd8_f32_qc4w, name),                     \
      .qd8_f32_qc8w = EDGE_GEMM(qd8_f32_qc8w, name),                     \
      .qd8_f32_qc8w_conv2d = EDGE_CONV2D_AS(convolution, name),          \
      .qd8_f32_qc2w_conv2d = EDGE_TERNARY_CONV2D(name),                  \
      .f32_gemm = gemm__avx2,                                            \
      .f32_conv2d = EDGE_F32_CONV2D(avx2),                               \
      .f32_layer_norm = layer_norm__avx2,                                \
      .f32_softmax = softmax__avx2,                                      \
      .f32_largest = largest__avx2,                                      \
      .f32_attention = {attention_scratch_bytes__avx2, attention__avx2}, \
      .qd8_attention = EDGE_ATTENTION(name),                             \
  }

EDGE_DEFINE_TERNARY_CONV2D(avx2, edge_qd8_conv2d_image_bytes__avx2, edge_qd8_conv2d_quantize__avx2)
EDGE_TABLE(avx2, winograd);
#if defined(EDGE_HAS_AVXVNNI)
EDGE_DEFINE_TERNARY_CONV2D(avxvnni, edge_qd8_conv2d_image_bytes__avxvnni, edge_qd8_conv2d_quantize__avxvnni)
EDGE_TABLE(avxvnni, qd8_conv2d);
#endif

#endif
