/* Float32 layers: edge::linear(x, weight, bias?, residual?, activation, out),
 * edge::conv2d(x, weight, bias?, residual?, stride, padding, dilation, groups, activation, out),
 * aten::linear(input, weight, bias?, out) and aten::convolution(input, weight, bias?, stride, padding, dilation,
 * transposed, output_padding, groups, out), of two dimensions or one.
 *
 * The order of the sums is in kernels/scalar/f32_gemm.c and f32_conv2d.c.
 */
#include "ops/edge_args.h"
#include "ops/ops.h"

#include <string.h>

enum { X, WEIGHT, BIAS };
/* Of edge::conv2d; aten::convolution's output is there too. */
enum { RESIDUAL = 3, OUT = 9 };

/* What a fast core does in a nanosecond; see edge_threads_for. */
#define MACS_A_NANOSECOND 30.0
#define CONVOLUTION_MACS_A_NANOSECOND 50.0
#define GROUPED_MACS_A_NANOSECOND 20.0

/* Where the other arguments are; 0 for those that an operator does not have. */
typedef struct layout {
  uint32_t residual, stride, groups, activation, out;
} layout;

static const layout edge_linear = {3, 0, 0, 4, 5};
static const layout edge_convolution = {RESIDUAL, 4, 7, 8, OUT};
static const layout aten_linear = {0, 0, 0, 0, 3};
static const layout aten_convolution = {0, 3, 8, 0, OUT};

static const float *floats(const edge_tensor *tensor) { return tensor != NULL ? tensor->data : NULL; }

static int activation_of(const edge_call *call, const layout *at) {
  return at->activation ? (int)edge_int_at(call, at->activation) : 0;
}

static const float *residual_of(const edge_call *call, const layout *at) {
  return at->residual ? floats(edge_optional_tensor_at(call, at->residual)) : NULL;
}

/* What follows the sums: bias, residual, activation, output. */
static edge_status check_rest(edge_call *call, const layout *at, const int32_t *sizes, uint32_t rank, int32_t channels,
                              int64_t products) {
  EDGE_TRY(edge_take_bias(call, BIAS, channels));
  if (at->residual) EDGE_TRY(edge_take_residual(call, at->residual, sizes, rank));
  if (at->activation) EDGE_TRY(edge_take_activation(call, at->activation));
  EDGE_TRY(edge_take_output(call, at->out, "out", EDGE_F32, sizes, rank));
  call->macs = (uint64_t)edge_elements(edge_tensor_at(call, at->out)) * (uint64_t)products;
  return EDGE_OK;
}

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
  memcpy(sizes, x->sizes, sizeof sizes);
  sizes[x->rank - 1] = weight->sizes[0];
  return check_rest(call, at, sizes, x->rank, weight->sizes[0], weight->sizes[1]);
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
      .residual = residual_of(call, at),
      .activation = activation_of(call, at),
      .out = edge_tensor_at(call, at->out)->data,
  };
  edge_threads *threads = edge_threads_for(call, (double)call->macs / MACS_A_NANOSECOND);
  const size_t tasks = edge_thread_count(threads) > 1 ? 4 * edge_thread_count(threads) : 1;
  own.columns = blocks(blocks(own.n, tasks), EDGE_SUM_LANES) * EDGE_SUM_LANES;
  if (own.n > 0) edge_parallel(threads, blocks(own.n, own.columns), multiply, &own);
  return EDGE_OK;
}

/* What the tasks of one sample share. */
typedef struct job {
  void (*run)(const edge_f32_conv2d *conv, const edge_conv_part *part);
  edge_f32_conv2d conv;
  size_t pixels, channels;                       /* of the output */
  size_t pixel_step, pixel_blocks, channel_step; /* of a task */
} job;

static void convolve(void *context, size_t task, size_t thread) {
  (void)thread;
  const job *work = context;
  const size_t pixel = task % work->pixel_blocks * work->pixel_step;
  const size_t channel = task / work->pixel_blocks * work->channel_step;
  const edge_conv_part part = {pixel, smaller(pixel + work->pixel_step, work->pixels), channel,
                               smaller(channel + work->channel_step, work->channels)};
  work->run(&work->conv, &part);
}

/* Splits the output into blocks of pixels and, where those are few, of channels, so that each thread gets some. */
static size_t split(job *work, size_t threads) {
  const size_t tasks = threads > 1 ? 4 * threads : 1, panels = blocks(work->channels, EDGE_PANEL);
  work->pixel_step = blocks(blocks(work->pixels, tasks), EDGE_ROW_BLOCK) * EDGE_ROW_BLOCK;
  work->pixel_blocks = blocks(work->pixels, work->pixel_step);
  work->channel_step = work->channels;
  if (work->conv.shape.groups == 1) {
    work->channel_step = blocks(panels, smaller(blocks(tasks, work->pixel_blocks), panels)) * EDGE_PANEL;
  }
  return work->pixel_blocks * blocks(work->channels, work->channel_step);
}

static edge_status check_convolution(edge_call *call, const layout *at) {
  const edge_tensor *x, *weight;
  edge_conv2d conv;
  EDGE_TRY(edge_take_tensor(call, X, "x", EDGE_F32, &x));
  EDGE_TRY(edge_take_tensor(call, WEIGHT, "weight", EDGE_F32, &weight));
  EDGE_TRY(edge_take_convolution(call, x, weight, at->stride, at->groups, &conv));
  const int32_t planar[4] = {conv.batch, conv.out_channels, conv.out_height, conv.out_width};
  const int32_t linear[3] = {conv.batch, conv.out_channels, conv.out_width};
  EDGE_TRY(check_rest(call, at, x->rank == 4 ? planar : linear, x->rank, conv.out_channels,
                      edge_product(weight->sizes, 1, weight->rank)));
  const edge_f32_conv2d_weights *kernel = &call->kernels->f32_conv2d;
  if (!weight->constant || kernel->packed_bytes == NULL) return EDGE_OK;
  EDGE_TRY(edge_reserve_packed(call, kernel->packed_bytes(&conv)));
  return edge_reserve(call, kernel->image_bytes(&conv));
}

static edge_status geometry(edge_call *call, const layout *at, edge_conv2d *conv) {
  return edge_take_convolution(call, edge_tensor_at(call, X), edge_tensor_at(call, WEIGHT), at->stride, at->groups,
                               conv);
}

static edge_status run_convolution(edge_call *call, const layout *at) {
  const edge_tensor *x = edge_tensor_at(call, X), *out = edge_tensor_at(call, at->out);
  const float *residual = residual_of(call, at);
  edge_conv2d conv;
  EDGE_TRY(geometry(call, at, &conv));
  const edge_f32_conv2d_weights *kernel = &call->kernels->f32_conv2d;
  if (kernel->packed_bytes != NULL && call->packed == NULL) kernel = &edge_kernels_scalar.f32_conv2d;
  const bool turned = !x->channels_last && kernel->image_bytes != NULL && kernel->image_bytes(&conv) > 0;
  job work = {
      .run = kernel->run,
      .conv =
          {
              .shape = conv,
              .channels_last = x->channels_last || turned,
              .weight = call->packed != NULL ? call->packed : edge_tensor_at(call, WEIGHT)->data,
              .bias = floats(edge_optional_tensor_at(call, BIAS)),
              .activation = activation_of(call, at),
          },
      .pixels = (size_t)conv.out_height * (size_t)conv.out_width,
      .channels = (size_t)conv.out_channels,
  };
  const size_t in_step = (size_t)conv.channels * (size_t)conv.height * (size_t)conv.width;
  const size_t out_step = work.channels * work.pixels;
  const double rate = conv.groups == 1 ? CONVOLUTION_MACS_A_NANOSECOND : GROUPED_MACS_A_NANOSECOND;
  edge_threads *pool = edge_threads_for(call, (double)call->macs / rate);
  const size_t tasks = split(&work, edge_thread_count(pool));
  for (size_t b = 0; b < (size_t)conv.batch; ++b) {
    work.conv.x = (const float *)x->data + b * in_step;
    if (turned) {
      kernel->turn(&conv, work.conv.x, call->scratch);
      work.conv.x = call->scratch;
    }
    work.conv.out = (edge_output_view){
        .data = (float *)out->data + b * out_step,
        .residual = residual != NULL ? residual + b * out_step : NULL,
        .row_step = out->channels_last ? work.channels : 1,
        .step = out->channels_last ? 1 : work.pixels,
    };
    edge_parallel(pool, tasks, convolve, &work);
  }
  return EDGE_OK;
}

static void pack_convolution(edge_call *call, const layout *at) {
  edge_conv2d conv;
  if (geometry(call, at, &conv) != EDGE_OK) return; /* `check` saw to it */
  call->kernels->f32_conv2d.pack(&conv, edge_tensor_at(call, WEIGHT)->data, call->packed);
}

static edge_status check_edge_linear(edge_call *call) { return check_linear(call, &edge_linear); }
static edge_status run_edge_linear(edge_call *call) { return run_linear(call, &edge_linear); }
static edge_status check_aten_linear(edge_call *call) { return check_linear(call, &aten_linear); }
static edge_status run_aten_linear(edge_call *call) { return run_linear(call, &aten_linear); }
static edge_status check_edge_conv2d(edge_call *call) { return check_convolution(call, &edge_convolution); }
static edge_status run_edge_conv2d(edge_call *call) { return run_convolution(call, &edge_convolution); }
static edge_status check_aten_convolution(edge_call *call) {
  bool transposed;
  EDGE_TRY(edge_take_bool(call, 6, "transposed", &transposed));
  if (transposed) return edge_fail(call, EDGE_UNSUPPORTED, "transposed convolutions are not supported");
  return check_convolution(call, &aten_convolution);
}
static edge_status run_aten_convolution(edge_call *call) { return run_convolution(call, &aten_convolution); }
static void pack_edge_conv2d(edge_call *call) { pack_convolution(call, &edge_convolution); }
static void pack_aten_convolution(edge_call *call) { pack_convolution(call, &aten_convolution); }

const edge_op edge_op_edge_linear = {"edge::linear.out", 6, 1, check_edge_linear, run_edge_linear};
const edge_op edge_op_edge_conv2d = {
    .name = "edge::conv2d.out",
    .arg_count = 10,
    .out_count = 1,
    .check = check_edge_conv2d,
    .run = run_edge_conv2d,
    .pack = pack_edge_conv2d,
    .channels_last = 1u << X | 1u << RESIDUAL | 1u << OUT,
    .alike = {RESIDUAL, OUT},
};
const edge_op edge_op_aten_linear = {"aten::linear.out", 4, 1, check_aten_linear, run_aten_linear};
const edge_op edge_op_aten_convolution = {
    .name = "aten::convolution.out",
    .arg_count = 10,
    .out_count = 1,
    .check = check_aten_convolution,
    .run = run_aten_convolution,
    .pack = pack_aten_convolution,
    .channels_last = 1u << X | 1u << OUT,
};
