/* edge::layer_norm(x, weight?, bias?, eps, out), aten::native_layer_norm and aten's batch norms of given moments. */
#include "kernels/kernels.h"
#include "ops/args.h"
#include "ops/ops.h"

#include <math.h>

static const float *floats(const edge_tensor *tensor) { return tensor != NULL ? tensor->data : NULL; }

/* Values that a fast core normalizes in a nanosecond; see edge_threads_for. */
#define VALUES_A_NANOSECOND 4.0

/* Rows of one layer norm; mean and rstd may be NULL. */
typedef struct layer {
  const edge_kernels *kernels;
  size_t rows, k;
  const float *x, *weight, *bias;
  float eps;
  float *out, *mean, *rstd;
} layer;

static void normalize_block(void *context, size_t block, size_t thread) {
  (void)thread;
  const layer *own = context;
  const size_t first = block * EDGE_TOKEN_BLOCK, left = own->rows - first, at = first * own->k;
  own->kernels->f32_layer_norm(left < EDGE_TOKEN_BLOCK ? left : EDGE_TOKEN_BLOCK, own->k, own->x + at, own->weight,
                               own->bias, own->eps, own->out + at, own->mean != NULL ? own->mean + first : NULL,
                               own->rstd != NULL ? own->rstd + first : NULL);
}

static void normalize_rows(const edge_call *call, layer *own) {
  edge_threads *threads = edge_threads_for(call, (double)own->rows * (double)own->k / VALUES_A_NANOSECOND);
  edge_parallel(threads, (own->rows + EDGE_TOKEN_BLOCK - 1) / EDGE_TOKEN_BLOCK, normalize_block, own);
}

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
  layer own = {
      .kernels = call->kernels,
      .rows = (size_t)edge_product(x->sizes, 0, x->rank - 1u),
      .k = (size_t)x->sizes[x->rank - 1],
      .x = x->data,
      .weight = floats(edge_optional_tensor_at(call, 1)),
      .bias = floats(edge_optional_tensor_at(call, 2)),
      .eps = (float)edge_real_at(call, 3),
      .out = edge_tensor_at(call, 4)->data,
  };
  normalize_rows(call, &own);
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
  layer own = {
      .kernels = call->kernels,
      .rows = (size_t)edge_product(x->sizes, 0, lead),
      .k = (size_t)edge_product(x->sizes, lead, x->rank),
      .x = x->data,
      .weight = floats(edge_optional_tensor_at(call, 2)),
      .bias = floats(edge_optional_tensor_at(call, 3)),
      .eps = (float)edge_real_at(call, 4),
      .out = edge_tensor_at(call, 5)->data,
      .mean = edge_tensor_at(call, 6)->data,
      .rstd = edge_tensor_at(call, 7)->data,
  };
  normalize_rows(call, &own);
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

const edge_op edge_op_edge_layer_norm = {"edge::layer_norm.out", 5, 1, check_layer_norm, run_layer_norm,
                                          .covers = 1u << 0};
const edge_op edge_op_aten_native_layer_norm = {"aten::native_layer_norm.out", 8, 3, check_native_layer_norm,
                                                run_native_layer_norm};
const edge_op edge_op_aten_native_batch_norm = {"aten::native_batch_norm.out", 11, 3, check_native_batch_norm,
                                                run_native_batch_norm};
const edge_op edge_op_aten_native_batch_norm_legit_no_training = {
    "aten::_native_batch_norm_legit_no_training.out", 10, 3, check_batch_norm_no_training, run_batch_norm_no_training};
