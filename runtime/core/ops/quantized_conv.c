/* edge::conv2d_int8(x, weight int8, scales, bias?, residual?, stride, padding, dilation, groups, activation, out).
 *
 * Each sample is quantized to int8 with one scale; see kernels/scalar/qd8_f32_qc8w_conv2d.c.
 */
#include "ops/edge_args.h"
#include "ops/ops.h"

enum { X, WEIGHT, SCALES, BIAS, RESIDUAL, STRIDE, PADDING, DILATION, GROUPS, ACTIVATION, OUT };

static edge_status geometry(edge_call *call, edge_conv2d *conv) {
  return edge_take_convolution(call, edge_tensor_at(call, X), edge_tensor_at(call, WEIGHT), STRIDE, GROUPS, conv);
}

static edge_status check(edge_call *call) {
  const edge_tensor *x, *weight;
  edge_conv2d conv;
  EDGE_TRY(edge_take_tensor(call, X, "x", EDGE_F32, &x));
  EDGE_TRY(edge_take_tensor(call, WEIGHT, "weight", EDGE_BIT(EDGE_INT8), &weight));
  EDGE_TRY(geometry(call, &conv));
  if (x->rank != 4) return edge_fail(call, EDGE_BAD_ARGUMENT, "x has %u dimensions, expected 4 (NCHW)", x->rank);
  EDGE_TRY(edge_take_scales(call, SCALES, conv.out_channels));
  EDGE_TRY(edge_take_bias(call, BIAS, conv.out_channels));
  const int32_t sizes[4] = {conv.batch, conv.out_channels, conv.out_height, conv.out_width};
  EDGE_TRY(edge_take_residual(call, RESIDUAL, sizes, 4));
  EDGE_TRY(edge_take_activation(call, ACTIVATION));
  EDGE_TRY(edge_take_output(call, OUT, "out", EDGE_F32, sizes, 4));
  const int64_t taps = edge_product(weight->sizes, 1, 4);
  if (taps > 131071) { /* 127 * 128 * taps < 2^31 */
    return edge_fail(call, EDGE_UNSUPPORTED, "%lld products an output, expected at most 131071", (long long)taps);
  }
  call->macs = (uint64_t)edge_elements(edge_tensor_at(call, OUT)) * (uint64_t)taps;
  return edge_reserve(call, (uint64_t)edge_product(x->sizes, 1, 4));
}

static edge_status run(edge_call *call) {
  edge_conv2d conv;
  EDGE_TRY(geometry(call, &conv));
  const edge_kernels *kernels = edge_kernels_select();
  const edge_tensor *residual = edge_optional_tensor_at(call, RESIDUAL);
  const edge_epilogue epilogue =
      edge_read_epilogue(call, SCALES, edge_optional_tensor_at(call, BIAS), ACTIVATION, false);
  const size_t in_step = (size_t)edge_product(edge_tensor_at(call, X)->sizes, 1, 4);
  const size_t out_step = (size_t)edge_product(edge_tensor_at(call, OUT)->sizes, 1, 4);
  const float *x = edge_tensor_at(call, X)->data;
  float *out = edge_tensor_at(call, OUT)->data;
  int8_t *codes = call->scratch;
  for (size_t b = 0; b < (size_t)conv.batch; ++b) {
    edge_row row;
    kernels->f32_qd8_quantize(in_step, x + b * in_step, 1, -1.0f, false, in_step, codes, &row);
    kernels->qd8_f32_qc8w_conv2d(&conv, codes, row.scale, edge_tensor_at(call, WEIGHT)->data, &epilogue,
                                 out + b * out_step,
                                 residual != NULL ? (const float *)residual->data + b * out_step : NULL);
  }
  return EDGE_OK;
}

const edge_op edge_op_edge_conv2d_int8 = {"edge::conv2d_int8.out", 11, 1, check, run};
