/* edge::conv2d_int8(x, weight int8, scales, bias?, residual?, stride, padding, dilation, groups, activation, out).
 *
 * Each sample is quantized to int8 with one scale; see kernels/scalar/qd8_f32_qc8w_conv2d.c.
 */
#include "ops/edge_args.h"
#include "ops/ops.h"

enum { X, WEIGHT, SCALES, BIAS, RESIDUAL, STRIDE, PADDING, DILATION, GROUPS, ACTIVATION, OUT };

static const edge_qd8_conv2d_weights *const scalar = &edge_kernels_scalar.qd8_f32_qc8w_conv2d;

static uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

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
  const edge_qd8_conv2d_weights *kernel = &call->kernels->qd8_f32_qc8w_conv2d;
  uint64_t image = scalar->image_bytes(&conv);
  if (weight->constant && kernel->packed_bytes != NULL && image > 0) {
    EDGE_TRY(edge_reserve_packed(call, kernel->packed_bytes(&conv)));
    if (call->packed_bytes > 0) image = larger(image, kernel->image_bytes(&conv));
  }
  return edge_reserve(call, image);
}

static void pack(edge_call *call) {
  edge_conv2d conv;
  if (geometry(call, &conv) != EDGE_OK) return; /* `check` saw to it */
  call->kernels->qd8_f32_qc8w_conv2d.pack(&conv, edge_tensor_at(call, WEIGHT)->data, call->packed);
}

typedef struct job {
  const edge_qd8_conv2d_weights *kernel;
  edge_qd8_conv2d conv;
  size_t rows; /* of the output, a task */
} job;

static void convolve(void *context, size_t task, size_t thread) {
  (void)thread;
  const job *work = context;
  const size_t first = task * work->rows, height = (size_t)work->conv.shape.out_height;
  work->kernel->run(&work->conv, first, first + work->rows < height ? first + work->rows : height);
}

static edge_status run(edge_call *call) {
  const edge_qd8_conv2d_weights *kernel = &call->kernels->qd8_f32_qc8w_conv2d;
  const edge_tensor *residual = edge_optional_tensor_at(call, RESIDUAL), *weight = edge_tensor_at(call, WEIGHT);
  job work = {
      .kernel = kernel->packed_bytes != NULL && call->packed == NULL ? scalar : kernel,
      .conv =
          {
              .image = call->scratch,
              .weight = call->packed != NULL ? call->packed : weight->data,
              .epilogue =
                  edge_read_epilogue(call, SCALES, edge_optional_tensor_at(call, BIAS), ACTIVATION, false),
          },
  };
  const edge_conv2d *shape = &work.conv.shape;
  EDGE_TRY(geometry(call, &work.conv.shape));
  if (shape->out_channels == 0 || shape->out_height == 0 || shape->out_width == 0) return EDGE_OK;
  edge_threads *pool = edge_threads_for(call, (double)call->macs / (shape->groups == 1 ? 100.0 : 40.0));
  const size_t threads = edge_thread_count(pool);
  const size_t in_step = (size_t)edge_product(edge_tensor_at(call, X)->sizes, 1, 4);
  const size_t out_step = (size_t)edge_product(edge_tensor_at(call, OUT)->sizes, 1, 4);
  const size_t tasks = threads > 1 ? 4 * threads : 1;
  work.rows = ((size_t)shape->out_height + tasks - 1) / tasks;
  for (size_t b = 0; b < (size_t)shape->batch; ++b) {
    const edge_tensor *x = edge_tensor_at(call, X), *out = edge_tensor_at(call, OUT);
    work.kernel->quantize(shape, (const float *)x->data + b * in_step, x->channels_last, call->scratch,
                          &work.conv.row);
    work.conv.out = (edge_output_view){
        .data = (float *)out->data + b * out_step,
        .residual = residual != NULL ? (const float *)residual->data + b * out_step : NULL,
        .row_step = out->channels_last ? (size_t)shape->out_channels : 1,
        .step = out->channels_last ? 1 : (size_t)shape->out_height * (size_t)shape->out_width,
    };
    edge_parallel(pool, ((size_t)shape->out_height + work.rows - 1) / work.rows, convolve, &work);
  }
  return EDGE_OK;
}

const edge_op edge_op_edge_conv2d_int8 = {
    .name = "edge::conv2d_int8.out",
    .arg_count = 11,
    .out_count = 1,
    .check = check,
    .run = run,
    .pack = pack,
    .channels_last = 1u << X | 1u << RESIDUAL | 1u << OUT,
    .alike = {RESIDUAL, OUT},
};
