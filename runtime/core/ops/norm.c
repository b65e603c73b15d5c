/* edge::layer_norm(x, weight?, bias?, eps, out), aten::native_layer_norm and aten's batch norms of given moments. */
#include "kernels/kernels.h"
#include "ops/args.h"
#include "ops/ops.h"

#include <math.h>

static const float *floats(const edge_tensor *tensor) { return tensor != NULL ? tensor->data : NULL; }

/* --- edge::layer_norm ------------------------------------------------------------------------------------------ */

static edge_status check_layer_norm(edge_call *call) {
  const edge_tensor *x, *weight, *bias;
  double eps;
  EDGE_TRY(edge_take_tensor(call, 0, "x", EDGE_F32, &x));
  if (x->rank < 1 || x->sizes[x->rank - 1] < 1) {
    return edge_fail(call, EDGE_BAD_ARGUMENT, "x has no last dimension to normalize over");
  }
  EDGE_TRY(edge_take_optional_tensor(call, 1, "weight", EDGE_F32, &weight));
  EDGE_TRY(edge_take_optional_tensor(call, 2, "bias", EDGE_F32, &bias));
  if (weight != NULL) EDGE_TRY(edge_expect_shape(call, weight, "weight", &x->sizes[x->rank - 1], 1));
  if (bias != NULL) EDGE_TRY(edge_expect_shape(call, bias, "bias", &x->sizes[x->rank - 1], 1));
  EDGE_TRY(edge_take_real(call, 3, "eps", &eps));
  return edge_take_output(call, 4, "out", EDGE_F32, x->sizes, x->rank);
}

static edge_status run_layer_norm(edge_call *call) {
  const edge_tensor *x = edge_tensor_at(call, 0);
  const size_t k = (size_t)x->sizes[x->rank - 1], rows = (size_t)edge_product(x->sizes, 0, x->rank - 1u);
  const float *in = x->data;
  float *out = edge_tensor_at(call, 4)->data;
  for (size_t r = 0; r < rows; ++r) {
    call->kernels->f32_layer_norm(k, in + r * k, floats(edge_optional_tensor_at(call, 1)),
                                          floats(edge_optional_tensor_at(call, 2)), (float)edge_real_at(call, 3),
                                          out + r * k, NULL, NULL);
  }
  return EDGE_OK;
}

/* --- aten::native_layer_norm(input, normalized_shape, weight?, bias?, eps, out, mean, rstd) -------------------- */

static edge_status check_native_layer_norm(edge_call *call) {
  const edge_tensor *x, *weight, *bias;
  const int64_t *shape;
  uint32_t count;
  double eps;
  EDGE_TRY(edge_take_tensor(call, 0, "input", EDGE_F32, &x));
  EDGE_TRY(edge_take_ints(call, 1, "normalized_shape", 1, EDGE_MAX_RANK, &shape, &count));
  bool fits = count <= x->rank;
  for (uint32_t d = 0; fits && d < count; ++d) fits = shape[d] == x->sizes[x->rank - count + d] && shape[d] > 0;
  if (!fits) return edge_fail(call, EDGE_BAD_ARGUMENT, "normalized_shape is not the end of input's shape");
  const uint32_t lead = x->rank - count;
  EDGE_TRY(edge_take_optional_tensor(call, 2, "weight", EDGE_F32, &weight));
  EDGE_TRY(edge_take_optional_tensor(call, 3, "bias", EDGE_F32, &bias));
  if (weight != NULL) EDGE_TRY(edge_expect_shape(call, weight, "weight", x->sizes + lead, count));
  if (bias != NULL) EDGE_TRY(edge_expect_shape(call, bias, "bias", x->sizes + lead, count));
  EDGE_TRY(edge_take_real(call, 4, "eps", &eps));
  EDGE_TRY(edge_take_output(call, 5, "out", EDGE_F32, x->sizes, x->rank));
  int32_t sizes[EDGE_MAX_RANK];
  for (uint32_t d = 0; d < x->rank; ++d) sizes[d] = d < lead ? x->sizes[d] : 1;
  EDGE_TRY(edge_take_output(call, 6, "mean", EDGE_F32, sizes, x->rank));
  return edge_take_output(call, 7, "rstd", EDGE_F32, sizes, x->rank);
}

static edge_status run_native_layer_norm(edge_call *call) {
  const edge_tensor *x = edge_tensor_at(call, 0);
  const uint32_t lead = x->rank - call->args[1]->count;
  const size_t k = (size_t)edge_product(x->sizes, lead, x->rank), rows = (size_t)edge_product(x->sizes, 0, lead);
  const float *in = x->data;
  float *out = edge_tensor_at(call, 5)->data, *mean = edge_tensor_at(call, 6)->data;
  float *rstd = edge_tensor_at(call, 7)->data;
  for (size_t r = 0; r < rows; ++r) {
    call->kernels->f32_layer_norm(k, in + r * k, floats(edge_optional_tensor_at(call, 2)),
                                          floats(edge_optional_tensor_at(call, 3)), (float)edge_real_at(call, 4),
                                          out + r * k, mean + r, rstd + r);
  }
  return EDGE_OK;
}

/* --- batch norm with running statistics ------------------------------------------------------------------------ */

enum { INPUT, WEIGHT, BIAS, MEAN, VARIANCE };

/* `eps` and `out` are where those arguments are; the two outputs behind `out` hold statistics of training, which are
 * empty here. */
static edge_status check_batch_norm(edge_call *call, uint32_t eps, uint32_t out) {
  static const char *const names[] = {"input", "weight", "bias", "running_mean", "running_var"};
  const edge_tensor *x, *tensor;
  double value;
  EDGE_TRY(edge_take_tensor(call, INPUT, names[INPUT], EDGE_F32, &x));
  if (x->rank < 2) return edge_fail(call, EDGE_BAD_ARGUMENT, "input has %u dimensions, expected 2 or more", x->rank);
  for (uint32_t i = WEIGHT; i <= VARIANCE; ++i) {
    EDGE_TRY(edge_take_optional_tensor(call, i, names[i], EDGE_F32, &tensor));
    if (tensor != NULL) {
      EDGE_TRY(edge_expect_shape(call, tensor, names[i], &x->sizes[1], 1));
    } else if (i >= MEAN) {
      return edge_fail(call, EDGE_UNSUPPORTED, "%s is None: statistics of a batch are not computed here", names[i]);
    }
  }
  EDGE_TRY(edge_take_real(call, eps, "eps", &value));
  EDGE_TRY(edge_take_output(call, out, "out", EDGE_F32, x->sizes, x->rank));
  EDGE_TRY(edge_take_tensor(call, out + 1, "save_mean", EDGE_F32, &tensor));
  return edge_take_tensor(call, out + 2, "save_invstd", EDGE_F32, &tensor);
}

static edge_status run_batch_norm(edge_call *call, uint32_t eps, uint32_t out) {
  const edge_tensor *x = edge_tensor_at(call, INPUT);
  const float *weight = floats(edge_optional_tensor_at(call, WEIGHT)),
              *bias = floats(edge_optional_tensor_at(call, BIAS));
  const float *mean = edge_tensor_at(call, MEAN)->data, *variance = edge_tensor_at(call, VARIANCE)->data;
  const int32_t channels = x->sizes[1];
  const int64_t plane = edge_product(x->sizes, 2, x->rank);
  const float *in = x->data;
  float *y = edge_tensor_at(call, out)->data;
  for (int32_t b = 0; b < x->sizes[0]; ++b) {
    for (int32_t c = 0; c < channels; ++c) {
      const float scale = (weight != NULL ? weight[c] : 1.0f) / sqrtf(variance[c] + (float)edge_real_at(call, eps));
      const float shift = bias != NULL ? bias[c] : 0.0f;
      for (int64_t i = 0; i < plane; ++i) *y++ = (*in++ - mean[c]) * scale + shift;
    }
  }
  return EDGE_OK;
}

static edge_status check_native_batch_norm(edge_call *call) {
  bool training;
  double momentum;
  EDGE_TRY(edge_take_bool(call, 5, "training", &training));
  if (training) return edge_fail(call, EDGE_UNSUPPORTED, "training is True: call model.eval() before the export");
  EDGE_TRY(edge_take_real(call, 6, "momentum", &momentum));
  return check_batch_norm(call, 7, 8);
}
static edge_status run_native_batch_norm(edge_call *call) { return run_batch_norm(call, 7, 8); }

static edge_status check_batch_norm_no_training(edge_call *call) {
  double momentum;
  EDGE_TRY(edge_take_real(call, 5, "momentum", &momentum));
  return check_batch_norm(call, 6, 7);
}
static edge_status run_batch_norm_no_training(edge_call *call) { return run_batch_norm(call, 6, 7); }

const edge_op edge_op_edge_layer_norm = {"edge::layer_norm.out", 5, 1, check_layer_norm, run_layer_norm};
const edge_op edge_op_aten_native_layer_norm = {"aten::native_layer_norm.out", 8, 3, check_native_layer_norm,
                                                run_native_layer_norm};
const edge_op edge_op_aten_native_batch_norm = {"aten::native_batch_norm.out", 11, 3, check_native_batch_norm,
                                                run_native_batch_norm};
const edge_op edge_op_aten_native_batch_norm_legit_no_training = {
    "aten::_native_batch_norm_legit_no_training.out", 10, 3, check_batch_norm_no_training, run_batch_norm_no_training};
