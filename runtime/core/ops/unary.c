/* aten operators of one float32 tensor, element by element: activations, roots, powers, clamps. */
#include "kernels/math_f32.h"
#include "ops/args.h"
#include "ops/ops.h"

#include <string.h>

/* Defines aten::<name>.out(self, out) as `expression` in x. */
#define EDGE_UNARY(symbol, name, expression)                                      \
  static edge_status run_##symbol(edge_call *call) {                              \
    const float *in = edge_tensor_at(call, 0)->data;                              \
    float *out = edge_tensor_at(call, 1)->data;                                   \
    for (int64_t i = 0, n = edge_elements(edge_tensor_at(call, 0)); i < n; ++i) { \
      const float x = in[i];                                                      \
      out[i] = expression;                                                        \
    }                                                                             \
    return EDGE_OK;                                                               \
  }                                                                               \
  const edge_op edge_op_aten_##symbol = {"aten::" name ".out", 2, 1, check_unary, run_##symbol};

static edge_status check_at(edge_call *call, uint32_t out) {
  const edge_tensor *x;
  EDGE_TRY(edge_take_tensor(call, 0, "self", EDGE_F32, &x));
  return edge_take_output(call, out, "out", EDGE_F32, x->sizes, x->rank);
}

static edge_status check_unary(edge_call *call) { return check_at(call, 1); }

EDGE_UNARY(relu, "relu", edge_reluf(x))
EDGE_UNARY(sigmoid, "sigmoid", edge_sigmoidf(x))
EDGE_UNARY(tanh, "tanh", edge_tanhf(x))
EDGE_UNARY(silu, "silu", edge_siluf(x))
EDGE_UNARY(hardswish, "hardswish", edge_hardswishf(x))
EDGE_UNARY(hardsigmoid, "hardsigmoid", edge_clampf(x + 3.0f, 0.0f, 6.0f) / 6.0f)
EDGE_UNARY(exp, "exp", edge_expf(x))
EDGE_UNARY(erf, "erf", edge_erff(x))
EDGE_UNARY(log, "log", logf(x))
EDGE_UNARY(sqrt, "sqrt", sqrtf(x))
EDGE_UNARY(rsqrt, "rsqrt", 1.0f / sqrtf(x))
EDGE_UNARY(reciprocal, "reciprocal", 1.0f / x)
EDGE_UNARY(neg, "neg", -x)
EDGE_UNARY(abs, "abs", fabsf(x))
EDGE_UNARY(sin, "sin", sinf(x))
EDGE_UNARY(cos, "cos", cosf(x))

/* --- with parameters ------------------------------------------------------------------------------------------- */

static bool text_is(const edge_value *value, const char *text) {
  return value->count == strlen(text) && memcmp(value->as.string, text, value->count) == 0;
}

/* aten::gelu(self, approximate, out) */
static edge_status check_gelu(edge_call *call) {
  EDGE_TRY(check_at(call, 2));
  const edge_value *approximate = call->args[1];
  if (approximate == NULL || approximate->kind != EDGE_STRING ||
      !(text_is(approximate, "none") || text_is(approximate, "tanh"))) {
    return edge_fail(call, EDGE_UNSUPPORTED, "approximate is neither \"none\" nor \"tanh\"");
  }
  return EDGE_OK;
}

static edge_status run_gelu(edge_call *call) {
  const int activation = text_is(call->args[1], "tanh") ? EDGE_ACT_GELU_TANH : EDGE_ACT_GELU_ERF;
  const float *in = edge_tensor_at(call, 0)->data;
  float *out = edge_tensor_at(call, 2)->data;
  for (int64_t i = 0, n = edge_elements(edge_tensor_at(call, 0)); i < n; ++i)
    out[i] = edge_activatef(in[i], activation);
  return EDGE_OK;
}

/* aten::hardtanh(self, min_val, max_val, out) and aten::clamp(self, min?, max?, out) */
static edge_status check_clamp(edge_call *call) {
  double ignored;
  EDGE_TRY(check_at(call, 3));
  for (uint32_t i = 1; i <= 2; ++i) {
    if (call->args[i] != NULL && call->args[i]->kind == EDGE_NONE) continue;
    EDGE_TRY(edge_take_real(call, i, i == 1 ? "min" : "max", &ignored));
  }
  return EDGE_OK;
}

static edge_status run_clamp(edge_call *call) {
  const float low = call->args[1]->kind == EDGE_NONE ? -INFINITY : (float)edge_real_at(call, 1);
  const float high = call->args[2]->kind == EDGE_NONE ? INFINITY : (float)edge_real_at(call, 2);
  const float *in = edge_tensor_at(call, 0)->data;
  float *out = edge_tensor_at(call, 3)->data;
  for (int64_t i = 0, n = edge_elements(edge_tensor_at(call, 0)); i < n; ++i) {
    const float x = in[i] < low ? low : in[i]; /* as torch: where low > high, high wins */
    out[i] = x > high ? high : x;
  }
  return EDGE_OK;
}

/* aten::leaky_relu(self, negative_slope, out) */
static edge_status check_scalar(edge_call *call) {
  double ignored;
  EDGE_TRY(edge_take_real(call, 1, "the second argument", &ignored));
  return check_at(call, 2);
}

static edge_status run_leaky_relu(edge_call *call) {
  const float slope = (float)edge_real_at(call, 1), *in = edge_tensor_at(call, 0)->data;
  float *out = edge_tensor_at(call, 2)->data;
  for (int64_t i = 0, n = edge_elements(edge_tensor_at(call, 0)); i < n; ++i)
    out[i] = in[i] > 0.0f ? in[i] : in[i] * slope;
  return EDGE_OK;
}

/* aten::elu(self, alpha, scale, input_scale, out) */
static edge_status check_elu(edge_call *call) {
  double ignored;
  for (uint32_t i = 1; i <= 3; ++i) EDGE_TRY(edge_take_real(call, i, "alpha, scale or input_scale", &ignored));
  return check_at(call, 4);
}

static edge_status run_elu(edge_call *call) {
  const float alpha = (float)edge_real_at(call, 1), scale = (float)edge_real_at(call, 2);
  const float input_scale = (float)edge_real_at(call, 3), *in = edge_tensor_at(call, 0)->data;
  float *out = edge_tensor_at(call, 4)->data;
  for (int64_t i = 0, n = edge_elements(edge_tensor_at(call, 0)); i < n; ++i) {
    out[i] = in[i] > 0.0f ? in[i] * scale : expm1f(in[i] * input_scale) * alpha * scale;
  }
  return EDGE_OK;
}

/* aten::pow(self, exponent, out) */
static edge_status run_pow_scalar(edge_call *call) {
  const float exponent = (float)edge_real_at(call, 1), *in = edge_tensor_at(call, 0)->data;
  float *out = edge_tensor_at(call, 2)->data;
  const int64_t n = edge_elements(edge_tensor_at(call, 0));
  if (exponent == 2.0f) {
    for (int64_t i = 0; i < n; ++i) out[i] = in[i] * in[i];
  } else {
    for (int64_t i = 0; i < n; ++i) out[i] = powf(in[i], exponent);
  }
  return EDGE_OK;
}

const edge_op edge_op_aten_gelu = {"aten::gelu.out", 3, 1, check_gelu, run_gelu};
const edge_op edge_op_aten_hardtanh = {"aten::hardtanh.out", 4, 1, check_clamp, run_clamp};
const edge_op edge_op_aten_clamp = {"aten::clamp.out", 4, 1, check_clamp, run_clamp};
const edge_op edge_op_aten_leaky_relu = {"aten::leaky_relu.out", 3, 1, check_scalar, run_leaky_relu};
const edge_op edge_op_aten_elu = {"aten::elu.out", 5, 1, check_elu, run_elu};
const edge_op edge_op_aten_pow_scalar = {"aten::pow.Tensor_Scalar_out", 3, 1, check_scalar, run_pow_scalar};
