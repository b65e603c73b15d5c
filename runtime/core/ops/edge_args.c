/* Shared arguments of the edge:: operators; see edge_args.h. */
#define EDGE_TERSE_DEFINES
#include "ops/edge_args.h"

#include "kernels/math_f32.h"

/* Kernel sizes, strides, paddings and dilations beyond this are refused, so that their sums and products fit. */
#define LARGEST_STEP 65535
/* Heights and widths of a convolution: with padding they stay far from the end of int32. */
#define LARGEST_SIDE (1 << 30)

edge_status edge_take_scales(edge_call *call, uint32_t index, int32_t n) {
  const edge_tensor *scales;
  EDGE_TRY(edge_take_tensor(call, index, "scales", EDGE_F32, &scales));
  if (scales->rank == 1 && (scales->sizes[0] == 1 || scales->sizes[0] == n)) return EDGE_OK;
  edge_shape_text given;
  return edge_fail(call, EDGE_BAD_ARGUMENT, "scales has shape %s, expected [1] or [%d]",
                   edge_shape_string(&given, scales->sizes, scales->rank), (int)n);
}

edge_status edge_take_bias(edge_call *call, uint32_t index, int32_t n) {
  const edge_tensor *bias;
  EDGE_TRY(edge_take_optional_tensor(call, index, "bias", EDGE_F32, &bias));
  return bias == NULL ? EDGE_OK : edge_expect_shape(call, bias, "bias", &n, 1);
}

edge_status edge_take_residual(edge_call *call, uint32_t index, const int32_t *sizes, uint32_t rank) {
  const edge_tensor *residual;
  EDGE_TRY(edge_take_optional_tensor(call, index, "residual", EDGE_F32, &residual));
  return residual == NULL ? EDGE_OK : edge_expect_shape(call, residual, "residual", sizes, rank);
}

edge_status edge_take_activation(edge_call *call, uint32_t index) {
  int64_t activation;
  return edge_take_int(call, index, "activation", 0, EDGE_ACT_COUNT - 1, &activation);
}

edge_epilogue edge_read_epilogue(const edge_call *call, uint32_t scales, const edge_tensor *bias, uint32_t activation,
                                 bool bitlinear_compat) {
  const edge_tensor *scale = edge_tensor_at(call, scales);
  return (edge_epilogue){
      .scales = scale->data,
      .scale_step = scale->sizes[0] == 1 ? 0 : 1,
      .bias = bias != NULL ? bias->data : NULL,
      .activation = (int)edge_int_at(call, activation),
      .bitlinear_compat = bitlinear_compat,
  };
}

edge_status edge_take_pair(edge_call *call, uint32_t index, const char *name, int64_t low, int32_t pair[2]) {
  const int64_t *values = NULL;
  uint32_t count = 0;
  EDGE_TRY(edge_take_ints(call, index, name, 1, 2, &values, &count));
  for (uint32_t d = 0; d < 2; ++d) {
    const int64_t value = values[count == 2 ? d : 0];
    if (value < low || value > LARGEST_STEP) {
      return edge_fail(call, EDGE_BAD_ARGUMENT, "%s is %lld, expected %lld to %d", name, (long long)value,
                       (long long)low, LARGEST_STEP);
    }
    pair[d] = (int32_t)value;
  }
  return EDGE_OK;
}

int64_t edge_window_count(int64_t size, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation,
                          bool ceil_mode) {
  const int64_t room = size + 2 * padding - dilation * (kernel - 1) - 1;
  if (room < 0) return 0;
  int64_t count = (room + (ceil_mode ? stride - 1 : 0)) / stride + 1;
  /* torch: the last window must start inside the input or its left padding. */
  if (ceil_mode && (count - 1) * stride >= size + padding) --count;
  return count;
}

edge_status edge_take_convolution(edge_call *call, const edge_tensor *x, const edge_tensor *weight, uint32_t stride,
                                  uint32_t groups, edge_conv2d *conv) {
  int32_t step[2] = {1, 1}, padding[2] = {0, 0}, dilation[2] = {1, 1};
  int64_t group_count = 1;
  EDGE_TRY(edge_take_pair(call, stride, "stride", 1, step));
  EDGE_TRY(edge_take_pair(call, stride + 1, "padding", 0, padding));
  EDGE_TRY(edge_take_pair(call, stride + 2, "dilation", 1, dilation));
  if (groups > 0) EDGE_TRY(edge_take_int(call, groups, "groups", 1, INT32_MAX, &group_count));
  if ((x->rank != 4 && x->rank != 3) || weight->rank != x->rank) {
    return edge_fail(call, EDGE_UNSUPPORTED, "x and weight have %u and %u dimensions, expected 4 each, or 3",
                     (unsigned)x->rank, (unsigned)weight->rank);
  }
  if (x->rank == 3) {
    step[0] = dilation[0] = 1;
    padding[0] = 0;
  }
  const uint32_t w = x->rank - 1;
  const int32_t channels = x->sizes[1], out_channels = weight->sizes[0];
  const int32_t size[2] = {x->rank == 4 ? x->sizes[2] : 1, x->sizes[w]};
  const int32_t kernel[2] = {x->rank == 4 ? weight->sizes[2] : 1, weight->sizes[w]};
  edge_shape_text x_text, weight_text;
  edge_shape_string(&x_text, x->sizes, x->rank);
  edge_shape_string(&weight_text, weight->sizes, weight->rank);
  if (channels < 1 || out_channels < 1 || channels % group_count != 0 || out_channels % group_count != 0 ||
      weight->sizes[1] != channels / group_count || kernel[0] < 1 || kernel[1] < 1) {
    return edge_fail(call, EDGE_BAD_ARGUMENT, "weight of shape %s does not fit x of shape %s in %d groups",
                     weight_text.text, x_text.text, (int)group_count);
  }
  if (size[0] > LARGEST_SIDE || size[1] > LARGEST_SIDE) {
    return edge_fail(call, EDGE_UNSUPPORTED, "x of shape %s is too large", x_text.text);
  }
  const int64_t height = edge_window_count(size[0], kernel[0], step[0], padding[0], dilation[0], false);
  const int64_t width = edge_window_count(size[1], kernel[1], step[1], padding[1], dilation[1], false);
  if (height < 1 || width < 1) {
    return edge_fail(call, EDGE_BAD_ARGUMENT, "the kernel of shape %s is larger than the padded x of shape %s",
                     weight_text.text, x_text.text);
  }
  *conv = (edge_conv2d){
      .batch = x->sizes[0],
      .channels = channels,
      .height = size[0],
      .width = size[1],
      .out_channels = out_channels,
      .out_height = (int32_t)height,
      .out_width = (int32_t)width,
      .kernel_h = kernel[0],
      .kernel_w = kernel[1],
      .stride_h = step[0],
      .stride_w = step[1],
      .padding_h = padding[0],
      .padding_w = padding[1],
      .dilation_h = dilation[0],
      .dilation_w = dilation[1],
      .groups = (int32_t)group_count,
  };
  return EDGE_OK;
}
