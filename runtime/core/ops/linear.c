/* Float32 linear layers: edge::linear(x, weight, bias?, residual?, activation, out) and
 * aten::linear(input, weight, bias?, out). The order of the sums is in kernels/scalar/f32_gemm.c.
 */
#include "ops/edge_args.h"
#include "ops/ops.h"

#include <string.h>

enum { X, WEIGHT, BIAS };

/* What a fast core does in a nanosecond; see edge_threads_for. */
#define MACS_A_NANOSECOND 30.0

/* Where the other arguments are; 0 for those that an operator does not have. */
typedef struct layout {
  uint32_t residual, activation, out;
} layout;

static const layout edge_linear = {3, 4, 5};
static const layout aten_linear = {0, 0, 3};

static const float *floats(const edge_tensor *tensor) { return tensor != NULL ? tensor->data : NULL; }

static edge_status check_linear(edge_call *call, const layout *at) {
  const edge_tensor *x, *weight;
  EDGE_TRY(edge_take_tensor(call, X, "x", EDGE_F32, &x));
  EDGE_TRY(edge_take_tensor(call, WEIGHT, "weight", EDGE_F32, &weight));
  if (x->rank < 1 || weight->rank != 2 || x->sizes[x->rank - 1] != weight->sizes[1]) {
    edge_shape_text x_text, weight_text;
    return edge_fail(call, EDGE_BAD_ARGUMENT, "weight of shape %s does not fit x of shape %s",
                     edge_shape_string(&weight_text, weight->sizes, weight->rank),
                     edge_shape_string(&x_text, x->sizes, x->rank));
  }
  int32_t sizes[EDGE_MAX_RANK];
  memcpy(sizes, x->sizes, x->rank * sizeof sizes[0]);
  sizes[x->rank - 1] = weight->sizes[0];
  EDGE_TRY(edge_take_bias(call, BIAS, weight->sizes[0]));
  if (at->residual) EDGE_TRY(edge_take_residual(call, at->residual, sizes, x->rank));
  if (at->activation) EDGE_TRY(edge_take_activation(call, at->activation));
  EDGE_TRY(edge_take_output(call, at->out, "out", EDGE_F32, sizes, x->rank));
  call->macs = (uint64_t)edge_elements(edge_tensor_at(call, at->out)) * (uint64_t)weight->sizes[1];
  return EDGE_OK;
}

/* What the tasks of a linear share. */
typedef struct linear {
  const edge_kernels *kernels;
  size_t rows, n, k, columns; /* outputs of a task */
  const float *x, *weight, *bias, *residual;
  int activation;
  float *out;
} linear;

static void multiply(void *context, size_t task, size_t thread) {
  (void)thread;
  const linear *own = context;
  const size_t first = task * own->columns;
  const edge_output_view out = {own->out + first, own->residual != NULL ? own->residual + first : NULL, own->n, 1};
  own->kernels->f32_gemm(own->rows, smaller(own->n - first, own->columns), own->k,
                         (edge_matrix){own->x, own->k, 1}, (edge_matrix){own->weight + first * own->k, own->k, 1},
                         own->bias != NULL ? own->bias + first : NULL, own->activation, &out);
}

static edge_status run_linear(edge_call *call, const layout *at) {
  const edge_tensor *x = edge_tensor_at(call, X), *weight = edge_tensor_at(call, WEIGHT);
  linear own = {
      .kernels = call->kernels,
      .rows = (size_t)edge_product(x->sizes, 0, x->rank - 1u),
      .n = (size_t)weight->sizes[0],
      .k = (size_t)weight->sizes[1],
      .x = x->data,
      .weight = weight->data,
      .bias = floats(edge_optional_tensor_at(call, BIAS)),
      .residual = at->residual ? floats(edge_optional_tensor_at(call, at->residual)) : NULL,
      .activation = at->activation ? (int)edge_int_at(call, at->activation) : 0,
      .out = edge_tensor_at(call, at->out)->data,
  };
  edge_threads *threads = edge_threads_for(call, (double)call->macs / MACS_A_NANOSECOND);
  const size_t tasks = edge_thread_count(threads) > 1 ? 4 * edge_thread_count(threads) : 1;
  own.columns = blocks(blocks(own.n, tasks), EDGE_SUM_LANES) * EDGE_SUM_LANES;
  if (own.n > 0) edge_parallel(threads, blocks(own.n, own.columns), multiply, &own);
  return EDGE_OK;
}

static edge_status check_edge_linear(edge_call *call) { return check_linear(call, &edge_linear); }
static edge_status run_edge_linear(edge_call *call) { return run_linear(call, &edge_linear); }
static edge_status check_aten_linear(edge_call *call) { return check_linear(call, &aten_linear); }
static edge_status run_aten_linear(edge_call *call) { return run_linear(call, &aten_linear); }

const edge_op edge_op_edge_linear = {"edge::linear.out", 6, 1, check_edge_linear, run_edge_linear};
const edge_op edge_op_aten_linear = {"aten::linear.out", 4, 1, check_aten_linear, run_aten_linear};
