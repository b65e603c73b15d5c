/* edge::conv2d_int8(x, weight int8, scales, bias?, residual?, stride, padding, dilation, groups, activation, out) and
 * edge::ternary_conv2d(x, packed, scales, bias?, residual?, kernel, stride, padding, dilation, activation, out).
 *
 * Each sample is quantized to int8 with one scale; see kernels/scalar/qd8_f32_qc8w_conv2d.c and qd8_f32_qc2w_conv2d.c.
 */
#include "ops/edge_args.h"
#include "ops/ops.h"
#include "ops/weights.h"

enum { X, WEIGHT, SCALES, BIAS, RESIDUAL, ACTIVATION = 9, OUT };

/* Where the geometry of each operator is; `kernel` is 0 where the weight tells it, `groups` 0 where they are 1. */
typedef struct layout {
  uint32_t kernel, stride, groups;
} layout;

static const layout conv2d_int8 = {0, 5, 8};
static const layout ternary_conv2d = {5, 6, 0};

static const edge_qd8_conv2d_weights *storage(const edge_kernels *kernels, const layout *at) {
  return at->kernel ? &kernels->qd8_f32_qc2w_conv2d : &kernels->qd8_f32_qc8w_conv2d;
}

static uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

static edge_status geometry(edge_call *call, const layout *at, edge_conv2d *conv) {
  const edge_tensor *x = edge_tensor_at(call, X), *weight = edge_tensor_at(call, WEIGHT);
  if (!at->kernel) return edge_take_convolution(call, x, weight, at->stride, at->groups, conv);
  /* As of a weight that is not packed. */
  int32_t kernel[2] = {1, 1};
  EDGE_TRY(edge_take_pair(call, at->kernel, "kernel", 1, kernel));
  const edge_tensor unpacked = {.rank = 4, .sizes = {weight->sizes[0], x->sizes[1], kernel[0], kernel[1]}};
  return edge_take_convolution(call, x, &unpacked, at->stride, 0, conv);
}

/* Products of one output. */
static uint64_t taps_of(const edge_conv2d *conv) {
  return (uint64_t)(conv->channels / conv->groups) * (uint64_t)conv->kernel_h * (uint64_t)conv->kernel_w;
}

/* The weight's dtype and sizes, of a checked geometry; so that no partial sum leaves int32, whatever the file holds:
 * 127 * largest code * taps < 2^31. */
static edge_status check_weight(edge_call *call, const layout *at, const edge_conv2d *conv) {
  const edge_tensor *weight = edge_tensor_at(call, WEIGHT);
  const uint64_t taps = taps_of(conv), most = at->kernel ? 5592405 : 131071;
  if (taps > most) {
    return edge_fail(call, EDGE_UNSUPPORTED, "%llu products an output, expected at most %llu",
                     (unsigned long long)taps, (unsigned long long)most);
  }
  if (!at->kernel) return EDGE_OK;
  int layout;
  EDGE_TRY(edge_take_layout(call, weight, true, &layout));
  const int32_t sizes[EDGE_MAX_RANK] = {conv->out_channels, (int32_t)edge_layout_row_bytes(layout, taps), 1, 1, 1};
  return edge_expect_shape(call, weight, "packed", sizes, weight->rank);
}

/* What the weights take in the kernel's layout; 0 where it leaves them as they are, or to the scalar kernel. */
static size_t repacked_bytes(const edge_qd8_conv2d_weights *kernel, const edge_conv2d *conv) {
  return kernel->packed_bytes != NULL ? kernel->packed_bytes(conv) : 0;
}

static size_t thread_bytes(const edge_qd8_conv2d_weights *kernel, const edge_conv2d *conv) {
  return kernel->scratch_bytes != NULL ? (size_t)edge_whole_lines(kernel->scratch_bytes(conv)) : 0;
}

/* The image of codes, then what each thread needs. */
static uint64_t scratch_bytes(const edge_call *call, const edge_qd8_conv2d_weights *kernel, const edge_conv2d *conv) {
  const uint64_t own = thread_bytes(kernel, conv), image = kernel->image_bytes(conv);
  return own == 0 ? image : edge_whole_lines(image) + own * edge_thread_count(call->threads);
}

static edge_status check(edge_call *call, const layout *at) {
  const edge_tensor *x, *weight;
  edge_conv2d conv;
  EDGE_TRY(edge_take_tensor(call, X, "x", EDGE_F32, &x));
  EDGE_TRY(edge_take_tensor(call, WEIGHT, at->kernel ? "packed" : "weight",
                            EDGE_BIT(at->kernel ? EDGE_UINT8 : EDGE_INT8), &weight));
  int layout;
  if (at->kernel) EDGE_TRY(edge_take_layout(call, weight, true, &layout));
  EDGE_TRY(geometry(call, at, &conv));
  if (x->rank != 4) return edge_fail(call, EDGE_BAD_ARGUMENT, "x has %u dimensions, expected 4 (NCHW)", x->rank);
  EDGE_TRY(edge_take_scales(call, SCALES, conv.out_channels));
  EDGE_TRY(edge_take_bias(call, BIAS, conv.out_channels));
  const int32_t sizes[4] = {conv.batch, conv.out_channels, conv.out_height, conv.out_width};
  EDGE_TRY(edge_take_residual(call, RESIDUAL, sizes, 4));
  EDGE_TRY(edge_take_activation(call, ACTIVATION));
  EDGE_TRY(edge_take_output(call, OUT, "out", EDGE_F32, sizes, 4));
  EDGE_TRY(check_weight(call, at, &conv));
  call->macs = (uint64_t)edge_elements(edge_tensor_at(call, OUT)) * taps_of(&conv);
  const edge_qd8_conv2d_weights *kernel = storage(call->kernels, at);
  const size_t repacked = repacked_bytes(kernel, &conv);
  if (at->kernel && conv.out_channels > 0) {
    EDGE_TRY(edge_reserve_weights(call, weight, (size_t)conv.out_channels, (size_t)taps_of(&conv), kernel->layout,
                                  repacked));
  } else if (weight->constant && conv.out_channels > 0) {
    EDGE_TRY(edge_reserve_packed(call, repacked));
  }
  /* Which kernel runs is known when the memory of repacked weights is there, or is not. */
  const uint64_t scratch = scratch_bytes(call, storage(&edge_kernels_scalar, at), &conv);
  return edge_reserve(call, larger(scratch, scratch_bytes(call, kernel, &conv)));
}

static void pack(edge_call *call, const layout *at) {
  edge_conv2d conv;
  if (geometry(call, at, &conv) != EDGE_OK) return; /* `check` saw to it */
  const edge_tensor *weight = edge_tensor_at(call, WEIGHT);
  const edge_qd8_conv2d_weights *kernel = storage(call->kernels, at);
  const size_t repacked = repacked_bytes(kernel, &conv);
  const void *rows = weight->data;
  if (at->kernel) {
    rows = edge_weight_rows(call, weight, (size_t)conv.out_channels, (size_t)taps_of(&conv), repacked);
  }
  if (repacked > 0) kernel->pack(&conv, rows, call->packed);
}

typedef struct job {
  const edge_qd8_conv2d_weights *kernel;
  edge_qd8_conv2d conv;
  char *scratch; /* of all threads */
  size_t thread_bytes;
  size_t rows; /* of the output, a task */
} job;

static void convolve(void *context, size_t task, size_t thread) {
  const job *work = context;
  const size_t first = task * work->rows, height = (size_t)work->conv.shape.out_height;
  edge_qd8_conv2d conv = work->conv;
  conv.scratch = work->scratch + thread * work->thread_bytes;
  work->kernel->run(&conv, first, first + work->rows < height ? first + work->rows : height);
}

static edge_status run(edge_call *call, const layout *at) {
  const edge_qd8_conv2d_weights *kernel = storage(call->kernels, at);
  const edge_tensor *residual = edge_optional_tensor_at(call, RESIDUAL), *weight = edge_tensor_at(call, WEIGHT);
  job work = {
      .conv =
          {
              .image = call->scratch,
              .weight = call->packed != NULL ? call->packed : weight->data,
              .epilogue =
                  edge_read_epilogue(call, SCALES, edge_optional_tensor_at(call, BIAS), ACTIVATION, false),
          },
  };
  const edge_conv2d *shape = &work.conv.shape;
  EDGE_TRY(geometry(call, at, &work.conv.shape));
  const int wanted = at->kernel ? kernel->layout : (int)weight->rank - 2; /* int8 weights lie in one way only */
  const bool own =
      edge_kernel_reads(call, weight, wanted, kernel->packed_bytes != NULL, repacked_bytes(kernel, shape));
  work.kernel = own ? kernel : storage(&edge_kernels_scalar, at);
  if (shape->out_channels == 0 || shape->out_height == 0 || shape->out_width == 0) return EDGE_OK;
  work.thread_bytes = thread_bytes(work.kernel, shape);
  work.scratch = (char *)call->scratch + edge_whole_lines(work.kernel->image_bytes(shape));
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

static edge_status check_conv2d_int8(edge_call *call) { return check(call, &conv2d_int8); }
static edge_status run_conv2d_int8(edge_call *call) { return run(call, &conv2d_int8); }
static void pack_conv2d_int8(edge_call *call) { pack(call, &conv2d_int8); }
static edge_status check_ternary_conv2d(edge_call *call) { return check(call, &ternary_conv2d); }
static edge_status run_ternary_conv2d(edge_call *call) { return run(call, &ternary_conv2d); }
static void pack_ternary_conv2d(edge_call *call) { pack(call, &ternary_conv2d); }

/* x, the residual and the output are taken in either order. */
#define IMAGES .channels_last = 1u << X | 1u << RESIDUAL | 1u << OUT, .alike = {RESIDUAL, OUT}

const edge_op edge_op_edge_conv2d_int8 = {"edge::conv2d_int8.out", 11, 1, check_conv2d_int8, run_conv2d_int8,
                                          pack_conv2d_int8, IMAGES};
const edge_op edge_op_edge_ternary_conv2d = {"edge::ternary_conv2d.out", 11, 1, check_ternary_conv2d,
                                             run_ternary_conv2d, pack_ternary_conv2d, IMAGES};
