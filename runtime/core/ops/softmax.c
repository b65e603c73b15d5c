/* aten::_softmax and aten::_log_softmax (self, dim, half_to_float, out) over any dimension. */
#include "kernels/kernels.h"
#include "kernels/math_f32.h"
#include "ops/args.h"
#include "ops/ops.h"

static edge_status check(edge_call *call) {
  const edge_tensor *x;
  uint32_t dim;
  bool half_to_float;
  EDGE_TRY(edge_take_tensor(call, 0, "self", EDGE_F32, &x));
  EDGE_TRY(edge_take_dim(call, 1, "dim", x->rank, &dim));
  EDGE_TRY(edge_take_bool(call, 2, "half_to_float", &half_to_float));
  if (half_to_float) return edge_fail(call, EDGE_UNSUPPORTED, "half_to_float is True, but self is float32");
  EDGE_TRY(edge_take_output(call, 3, "out", EDGE_F32, x->sizes, x->rank));
  return edge_reserve(call, 2 * sizeof(float) * (uint64_t)(x->rank > 0 ? x->sizes[dim] : 1));
}

static void log_softmax(size_t k, const float *x, float *out) {
  float max = -INFINITY;
  for (size_t i = 0; i < k; ++i) max = x[i] > max ? x[i] : max;
  float sum = 0.0f;
  for (size_t i = 0; i < k; ++i) sum += edge_expf(x[i] - max);
  const float shift = logf(sum);
  for (size_t i = 0; i < k; ++i) out[i] = x[i] - max - shift;
}

/* Gathers each line along `dim` into scratch, transforms it, and scatters it. */
static edge_status run(edge_call *call, edge_f32_softmax_fn transform) {
  const edge_tensor *x = edge_tensor_at(call, 0);
  uint32_t dim;
  EDGE_TRY(edge_take_dim(call, 1, "dim", x->rank, &dim));
  const size_t k = x->rank > 0 ? (size_t)x->sizes[dim] : 1;
  const size_t inner = (size_t)edge_product(x->sizes, dim + 1, x->rank);
  const size_t outer = (size_t)edge_product(x->sizes, 0, x->rank > 0 ? dim : 0);
  const float *in = x->data;
  float *out = edge_tensor_at(call, 3)->data, *line = call->scratch, *result = line + k;
  for (size_t o = 0; o < outer; ++o, in += k * inner, out += k * inner) {
    if (inner == 1) {
      transform(k, in, out);
      continue;
    }
    for (size_t i = 0; i < inner; ++i) {
      for (size_t j = 0; j < k; ++j) line[j] = in[j * inner + i];
      transform(k, line, result);
      for (size_t j = 0; j < k; ++j) out[j * inner + i] = result[j];
    }
  }
  return EDGE_OK;
}

static edge_status run_softmax(edge_call *call) { return run(call, call->kernels->f32_softmax); }
static edge_status run_log_softmax(edge_call *call) { return run(call, log_softmax); }

const edge_op edge_op_aten_softmax = {"aten::_softmax.out", 4, 1, check, run_softmax};
const edge_op edge_op_aten_log_softmax = {"aten::_log_softmax.out", 4, 1, check, run_log_softmax};
