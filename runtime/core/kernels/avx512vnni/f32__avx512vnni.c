/* The float kernels for AVX-512, and the table. */
#include "kernels/avx512vnni/avx512vnni.h"

#if defined(__x86_64__)

#include "kernels/avx512vnni/vector__avx512vnni.h"
#include "kernels/scalar/scalar.h"
#include "kernels/simd/qc2w_conv2d.h"

EDGE_TARGET_BEGIN(EDGE_AVX512VNNI)

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

EDGE_DEFINE_TERNARY_CONV2D(avx512vnni, edge_qd8_conv2d_image_bytes__avx512vnni,
                           edge_qd8_conv2d_quantize__avx512vnni)

const edge_kernels edge_kernels_avx512vnni = {
    .isa = "avx512vnni",
    .f32_qd8_quantize = quantize__avx512vnni,
    .f32_qd8_quantize_columns = quantize_columns__avx512vnni,
    .qd8_f32_qc2w = EDGE_GEMM(qd8_f32_qc2w, avx512vnni),
    .qd8_f32_qc4w = EDGE_GEMM(qd8_f32_qc4w, avx512vnni),
    .qd8_f32_qc8w = EDGE_GEMM(qd8_f32_qc8w, avx512vnni),
    .qd8_f32_qc8w_conv2d = EDGE_CONV2D(avx512vnni),
    .qd8_f32_qc2w_conv2d = EDGE_TERNARY_CONV2D(avx512vnni),
    .f32_gemm = gemm__avx512vnni,
    .f32_conv2d = EDGE_F32_CONV2D(avx512vnni),
    .f32_layer_norm = layer_norm__avx512vnni,
    .f32_softmax = softmax__avx512vnni,
    .f32_largest = largest__avx512vnni,
    .f32_attention = {attention_scratch_bytes__avx512vnni, attention__avx512vnni},
    .qd8_attention = EDGE_ATTENTION(avx512vnni),
};

#endif
