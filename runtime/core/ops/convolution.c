/* edge::conv2d(x, weight, bias?, residual?, stride, padding, dilation, groups, activation, out),
 * edge::conv2d_int8(x, weight int8, scales, bias?, residual?, stride, padding, dilation, groups, activation, out),
 * edge::ternary_conv2d(x, packed, scales, bias?, residual?, kernel, stride, padding, dilation, activation, out) and
 * aten::convolution(input, weight, bias?, stride, padding, dilation, transposed, output_padding, groups, out), of two
 * dimensions or one.
 *
 * The order of float sums is in kernels/scalar/f32_conv2d.c. Of the quantized ones each sample has one scale; see
 * kernels/scalar/qd8_f32_qc8w_conv2d.c and qd8_f32_qc2w_conv2d.c.
 */
#include "ops/convolution.h"

#include "ops/ops.h"
#include "ops/weights.h"

#include <string.h>

enum { X, WEIGHT };

/* What a fast core does in a nanosecond; see edge_threads_for. */
#define FLOAT_MACS_A_NANOSECOND 50.0
#define GROUPED_FLOAT_MACS_A_NANOSECOND 20.0
#define MACS_A_NANOSECOND 100.0
#define GROUPED_MACS_A_NANOSECOND 40.0

static const edge_qd8_conv2d_weights *storage(const edge_kernels *kernels, const edge_conv_layout *at) {
  return at->weights == EDGE_CONV_TERNARY ? &kernels->qd8_f32_qc2w_conv2d : &kernels->qd8_f32_qc8w_conv2d;
}

#if EDGE_SCALAR_WHERE_UNREAD
static uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }
#endif

static const float *floats(const edge_tensor *tensor) { return tensor != NULL ? tensor->data : NULL; }

edge_status edge_conv_geometry(edge_call *call, const edge_conv_layout *at, edge_conv2d *shape) {
  const edge_tensor *x = edge_tensor_at(call, X), *weight = edge_tensor_at(call, WEIGHT);
  if (!at->kernel) return edge_take_convolution(call, x, weight, at->stride, at->groups, shape);
  /* As of a weight that is not packed. */
  int32_t kernel[2] = {1, 1};
  EDGE_TRY(edge_take_pair(call, at->kernel, "kernel", 1, kernel));
  const edge_tensor unpacked = {.rank = 4, .sizes = {weight->sizes[0], x->sizes[1], kernel[0], kernel[1]}};
  return edge_take_convolution(call, x, &unpacked, at->stride, 0, shape);
}

/* Products of one output. */
static uint64_t taps_of(const edge_conv2d *shape) {
  return (uint64_t)(shape->channels / shape->groups) * (uint64_t)shape->kernel_h * (uint64_t)shape->kernel_w;
}

/* What a weight of codes must be beside its geometry; so that no partial sum leaves int32, whatever the file holds:
 * 127 * largest code * taps < 2^31. */
static edge_status check_codes(edge_call *call, const edge_conv_layout *at, const edge_conv2d *shape) {
  const edge_tensor *x = edge_tensor_at(call, X), *weight = edge_tensor_at(call, WEIGHT);
  const bool ternary = at->weights == EDGE_CONV_TERNARY;
  const uint64_t taps = taps_of(shape), most = ternary ? 5592405 : 131071;
  if (x->rank != 4) return edge_fail(call, EDGE_BAD_ARGUMENT, "x has %u dimensions, expected 4 (NCHW)", x->rank);
  EDGE_TRY(edge_take_scales(call, at->scales, shape->out_channels));
  if (taps > most) {
    return edge_fail(call, EDGE_UNSUPPORTED, "%llu products an output, expected at most %llu",
                     (unsigned long long)taps, (unsigned long long)most);
  }
  if (!ternary) return EDGE_OK;
  const int32_t row = (int32_t)edge_layout_row_bytes(edge_layout_of(weight), (size_t)taps);
  const int32_t sizes[EDGE_MAX_RANK] = {shape->out_channels, row, 1, 1, 1};
  return edge_expect_shape(call, weight, "packed", sizes, weight->rank);
}

/* What the weights take in the kernel's layout; 0 where it leaves them as they are, or to the scalar kernel. */
static size_t repacked_bytes(const edge_qd8_conv2d_weights *kernel, const edge_conv2d *shape) {
  return kernel->packed_bytes != NULL ? kernel->packed_bytes(shape) : 0;
}

#if EDGE_SCALAR_WHERE_UNREAD
/* Whether it is this kernel that runs, and not the scalar one. */
static bool reads(const edge_call *call, const edge_conv_layout *at, const edge_qd8_conv2d_weights *kernel,
                  const edge_conv2d *shape) {
  const edge_tensor *weight = edge_tensor_at(call, WEIGHT);
  /* int8 weights lie in one way only. */
  const int wanted = at->weights == EDGE_CONV_TERNARY ? kernel->layout : edge_layout_of(weight);
  return edge_kernel_reads(call, weight, wanted, kernel->packed_bytes != NULL, repacked_bytes(kernel, shape));
}
#endif

/* Pixels of the output that a band of the image is for, at least. */
enum { BAND_PIXELS = 16 };

/* Whether each row of outputs that is written on the sample covers values that no later row needs. */
static bool outputs_may_follow(const edge_conv2d *shape) {
  return shape->channels == shape->out_channels && shape->height == shape->out_height &&
         shape->width == shape->out_width && shape->stride_h == 1;
}

/* Rows of the output that the image holds the codes for; 0 where it holds the whole sample: for kernels that want that,
 * for threads that share it, and where the outputs may lie on the sample and are not in its order. */
static size_t band_of(const edge_call *call, const edge_qd8_conv2d_weights *kernel, const edge_conv2d *shape) {
  const int64_t in[3] = {shape->channels, shape->height, shape->width};
  const int64_t out[3] = {shape->out_channels, shape->out_height, shape->out_width};
  if (kernel->row_bytes == NULL || edge_thread_count(call->threads) > 1) return 0;
  if (shape->padding_h > (int64_t)shape->dilation_h * (shape->kernel_h - 1)) return 0; /* rows that meet only padding */
  if (in[0] * in[1] * in[2] == out[0] * out[1] * out[2] && !outputs_may_follow(shape)) return 0;
  return blocks(BAND_PIXELS, (size_t)shape->out_width);
}

static edge_conv_scratch scratch_of(const edge_call *call, const edge_qd8_conv2d_weights *kernel,
                                    const edge_conv2d *shape) {
  const size_t band = band_of(call, kernel, shape);
  const uint64_t rows = ((uint64_t)band - 1) * (uint64_t)shape->stride_h +
                        (uint64_t)shape->dilation_h * (uint64_t)(shape->kernel_h - 1) + 1;
  edge_conv_scratch scratch = {
      .thread = kernel->scratch_bytes != NULL ? edge_whole_lines(kernel->scratch_bytes(shape)) : 0,
  };
  if (band > 0 && rows < (uint64_t)shape->height) {
    scratch.image = edge_whole_lines(rows * kernel->row_bytes(shape));
  } else {
    scratch.image = edge_whole_lines(kernel->image_bytes(shape));
  }
  return scratch;
}

edge_status edge_check_conv(edge_call *call, const edge_conv_layout *at, edge_conv2d *shape,
                            edge_conv_scratch *scratch) {
  static const uint32_t dtypes[] = {EDGE_F32, EDGE_BIT(EDGE_INT8), EDGE_BIT(EDGE_UINT8)};
  const edge_tensor *x, *weight;
  const char *name = at->weights == EDGE_CONV_TERNARY ? "packed" : "weight";
  EDGE_TRY(edge_take_tensor(call, X, "x", EDGE_F32, &x));
  EDGE_TRY(edge_take_tensor(call, WEIGHT, name, dtypes[at->weights], &weight));
  int layout;
  if (at->weights == EDGE_CONV_TERNARY) EDGE_TRY(edge_take_layout(call, weight, true, &layout));
  EDGE_TRY(edge_conv_geometry(call, at, shape));
  if (at->weights != EDGE_CONV_FLOAT) EDGE_TRY(check_codes(call, at, shape));
  EDGE_TRY(edge_take_bias(call, at->bias, shape->out_channels));
  const int32_t planar[4] = {shape->batch, shape->out_channels, shape->out_height, shape->out_width};
  const int32_t linear[3] = {shape->batch, shape->out_channels, shape->out_width};
  if (at->residual) EDGE_TRY(edge_take_residual(call, at->residual, x->rank == 4 ? planar : linear, x->rank));
  if (at->activation) EDGE_TRY(edge_take_activation(call, at->activation));
  call->macs = (uint64_t)edge_product(planar, 0, 4) * taps_of(shape);
  *scratch = (edge_conv_scratch){0, 0};
  if (at->weights == EDGE_CONV_FLOAT) {
    const edge_f32_conv2d_weights *kernel = &call->kernels->f32_conv2d;
    if (!weight->constant || kernel->packed_bytes == NULL) return EDGE_OK;
    scratch->image = edge_whole_lines(kernel->image_bytes(shape));
    return edge_reserve_packed(call, kernel->packed_bytes(shape));
  }
  const edge_qd8_conv2d_weights *kernel = storage(call->kernels, at);
  const size_t repacked = repacked_bytes(kernel, shape);
  if (at->weights == EDGE_CONV_TERNARY) {
    EDGE_TRY(edge_reserve_weights(call, weight, (size_t)shape->out_channels, (size_t)taps_of(shape), kernel->layout,
                                  repacked));
  } else if (weight->constant) {
    EDGE_TRY(edge_reserve_packed(call, repacked));
  }
  /* Which kernel runs is known when the memory of repacked weights is there, or is not. */
  *scratch = scratch_of(call, kernel, shape);
#if EDGE_SCALAR_WHERE_UNREAD
  const edge_conv_scratch scalar = scratch_of(call, storage(&edge_kernels_scalar, at), shape);
  *scratch = (edge_conv_scratch){larger(scalar.image, scratch->image), larger(scalar.thread, scratch->thread)};
#endif
  return EDGE_OK;
}

void edge_pack_conv(edge_call *call, const edge_conv_layout *at) {
  edge_conv2d shape;
  if (edge_conv_geometry(call, at, &shape) != EDGE_OK) return; /* `check` saw to it */
  const edge_tensor *weight = edge_tensor_at(call, WEIGHT);
  if (at->weights == EDGE_CONV_FLOAT) {
    call->kernels->f32_conv2d.pack(&shape, weight->data, call->packed);
    return;
  }
  const edge_qd8_conv2d_weights *kernel = storage(call->kernels, at);
  const size_t repacked = repacked_bytes(kernel, &shape);
  const void *rows = weight->data;
  if (at->weights == EDGE_CONV_TERNARY) {
    rows = edge_weight_rows(call, weight, (size_t)shape.out_channels, (size_t)taps_of(&shape), repacked);
  }
  if (repacked > 0) kernel->pack(&shape, rows, call->packed);
}

edge_status edge_open_conv(edge_call *call, const edge_conv_layout *at, edge_convolution *conv) {
  const edge_tensor *bias = edge_optional_tensor_at(call, at->bias);
  const void *weight = call->packed != NULL ? call->packed : edge_tensor_at(call, WEIGHT)->data;
  const bool integer = at->weights != EDGE_CONV_FLOAT;
  *conv = (edge_convolution){.x = edge_tensor_at(call, X)};
  EDGE_TRY(edge_conv_geometry(call, at, &conv->shape));
  const bool grouped = conv->shape.groups != 1;
  if (integer) {
    conv->codes = storage(call->kernels, at);
#if EDGE_SCALAR_WHERE_UNREAD
    if (!reads(call, at, conv->codes, &conv->shape)) conv->codes = storage(&edge_kernels_scalar, at);
#endif
    conv->scratch = scratch_of(call, conv->codes, &conv->shape);
    conv->band.outputs = band_of(call, conv->codes, &conv->shape);
    conv->of_codes = (edge_qd8_conv2d){
        .shape = conv->shape,
        .weight = weight,
        .epilogue = edge_read_epilogue(call, at->scales, bias, at->activation, false),
    };
    conv->macs_a_nanosecond = grouped ? GROUPED_MACS_A_NANOSECOND : MACS_A_NANOSECOND;
    return EDGE_OK;
  }
  conv->floats = &call->kernels->f32_conv2d;
#if !defined(EDGE_BARE_METAL) /* whose kernels take the weights as they are */
  if (conv->floats->packed_bytes != NULL && call->packed == NULL) conv->floats = &edge_kernels_scalar.f32_conv2d;
#endif
  if (!conv->x->channels_last && conv->floats->image_bytes != NULL) {
    conv->scratch.image = edge_whole_lines(conv->floats->image_bytes(&conv->shape)); /* 0: it is taken as it is */
  }
  conv->of_floats = (edge_f32_conv2d){
      .shape = conv->shape,
      .channels_last = conv->x->channels_last || conv->scratch.image > 0,
      .weight = weight,
      .bias = floats(bias),
      .activation = at->activation ? (int)edge_int_at(call, at->activation) : 0,
  };
  conv->macs_a_nanosecond = grouped ? GROUPED_FLOAT_MACS_A_NANOSECOND : FLOAT_MACS_A_NANOSECOND;
  return EDGE_OK;
}

void edge_conv_sample(edge_convolution *conv, size_t index, void *image) {
  const edge_conv2d *shape = &conv->shape;
  const size_t step = (size_t)shape->channels * (size_t)shape->height * (size_t)shape->width;
  const float *x = (const float *)conv->x->data + index * step;
  conv->sample = x;
  conv->image = image;
  conv->band.first = conv->band.last = 0;
  conv->of_codes.image = image;
  if (conv->codes != NULL && conv->band.outputs > 0) {
    conv->of_codes.row = conv->codes->scale(step, x);
  } else if (conv->codes != NULL) {
    conv->codes->quantize(shape, x, conv->x->channels_last, image, &conv->of_codes.row);
  } else if (conv->scratch.image > 0) {
    conv->floats->turn(shape, x, image);
    conv->of_floats.x = image;
  } else {
    conv->of_floats.x = x;
  }
}

/* Fills the band for the output rows first .. last - 1, with what it holds already and new rows; `band` becomes a
 * convolution of those rows alone, whose first row of outputs is that one. */
static void fill_band(edge_convolution *conv, size_t first, size_t last, edge_conv2d *band) {
  const edge_conv2d *shape = &conv->shape;
  const size_t height = (size_t)shape->height, stride = (size_t)shape->stride_h, padding = (size_t)shape->padding_h;
  const size_t reach = (size_t)shape->dilation_h * (size_t)(shape->kernel_h - 1); /* padding is not more */
  const size_t begin = first * stride > padding ? first * stride - padding : 0;
  const size_t end = smaller(height, (last - 1) * stride + reach + 1 - padding);
  const size_t row = conv->codes->row_bytes(shape);
  char *image = conv->image;
  size_t held = begin;
  if (begin >= conv->band.first && begin < conv->band.last) {
    memmove(image, image + (begin - conv->band.first) * row, (conv->band.last - begin) * row);
    held = conv->band.last;
  }
  if (held < end) {
    conv->codes->quantize_rows(shape, conv->sample, conv->x->channels_last, &conv->of_codes.row, held, end,
                               image + (held - begin) * row);
    held = end;
  }
  conv->band.first = begin;
  conv->band.last = held;
  *band = *shape;
  band->height = (int32_t)(held - begin);
  band->padding_h = (int32_t)(padding + begin - first * stride);
  band->out_height = (int32_t)(last - first);
}

void edge_conv_rows(edge_convolution *conv, size_t first, size_t last, const edge_output_view *out, void *own) {
  const size_t width = (size_t)conv->shape.out_width;
  if (conv->codes != NULL) {
    edge_qd8_conv2d job = conv->of_codes;
    job.out = *out;
    job.scratch = own;
    if (conv->band.outputs == 0) conv->codes->run(&job, first, last);
    for (size_t y = first, end; conv->band.outputs > 0 && y < last; y = end) {
      end = smaller(y + conv->band.outputs, last);
      fill_band(conv, y, end, &job.shape);
      job.out.data = out->data + y * width * out->row_step;
      if (out->residual != NULL) job.out.residual = out->residual + y * width * out->row_step;
      conv->codes->run(&job, 0, end - y);
    }
    return;
  }
  edge_f32_conv2d job = conv->of_floats;
  job.out = *out;
  const edge_conv_part part = {first * width, last * width, 0, (size_t)conv->shape.out_channels};
  conv->floats->run(&job, &part);
}

/* --- without a pool ---------------------------------------------------------------------------------------------- */

static const edge_conv_layout conv2d = {EDGE_CONV_FLOAT, 0, 2, 3, 0, 4, 7, 8};
static const edge_conv_layout conv2d_int8 = {EDGE_CONV_INT8, 2, 3, 4, 0, 5, 8, 9};
static const edge_conv_layout ternary_conv2d = {EDGE_CONV_TERNARY, 2, 3, 4, 5, 6, 0, 9};
static const edge_conv_layout aten_convolution = {EDGE_CONV_FLOAT, 0, 2, 0, 0, 3, 8, 0};

static edge_status check(edge_call *call, const edge_conv_layout *at) {
  edge_conv2d shape;
  edge_conv_scratch scratch;
  EDGE_TRY(edge_check_conv(call, at, &shape, &scratch));
  const uint32_t rank = edge_tensor_at(call, X)->rank;
  const int32_t planar[4] = {shape.batch, shape.out_channels, shape.out_height, shape.out_width};
  const int32_t linear[3] = {shape.batch, shape.out_channels, shape.out_width};
  EDGE_TRY(edge_take_output(call, edge_first_output(call->op), "out", EDGE_F32, rank == 4 ? planar : linear, rank));
  return edge_reserve(call, scratch.image + scratch.thread * edge_thread_count(call->threads));
}

/* What the tasks of one sample share. */
typedef struct job {
  edge_convolution conv;
  edge_output_view out;
  char *scratch;                                 /* of the threads */
  size_t rows;                                   /* of the output, a task */
  size_t pixels, channels;                       /* of the output of a float convolution */
  size_t pixel_step, pixel_blocks, channel_step; /* of a task of one */
} job;

static void convolve_rows(void *context, size_t task, size_t thread) {
  job *work = context;
  const size_t first = task * work->rows, last = smaller(first + work->rows, (size_t)work->conv.shape.out_height);
  edge_conv_rows(&work->conv, first, last, &work->out, work->scratch + thread * work->conv.scratch.thread);
}

static void convolve_part(void *context, size_t task, size_t thread) {
  (void)thread;
  const job *work = context;
  const size_t pixel = task % work->pixel_blocks * work->pixel_step;
  const size_t channel = task / work->pixel_blocks * work->channel_step;
  const edge_conv_part part = {pixel, smaller(pixel + work->pixel_step, work->pixels), channel,
                               smaller(channel + work->channel_step, work->channels)};
  edge_f32_conv2d conv = work->conv.of_floats;
  conv.out = work->out;
  work->conv.floats->run(&conv, &part);
}

/* Splits a float convolution into blocks of pixels and, where those are few, of channels, so that each thread gets
 * some; returns how many. */
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

static edge_status run(edge_call *call, const edge_conv_layout *at) {
  const edge_tensor *out = edge_tensor_at(call, edge_first_output(call->op));
  const edge_tensor *residual = at->residual ? edge_optional_tensor_at(call, at->residual) : NULL;
  job work = {0};
  EDGE_TRY(edge_open_conv(call, at, &work.conv));
  const edge_conv2d *shape = &work.conv.shape;
  work.channels = (size_t)shape->out_channels;
  work.pixels = (size_t)shape->out_height * (size_t)shape->out_width;
  work.scratch = (char *)call->scratch + work.conv.scratch.image;
  edge_threads *pool = edge_threads_for(call, (double)call->macs / work.conv.macs_a_nanosecond);
  const size_t threads = edge_thread_count(pool), tasks = threads > 1 ? 4 * threads : 1;
  const size_t parts = work.conv.codes == NULL ? split(&work, threads) : 0;
  work.rows = blocks((size_t)shape->out_height, tasks);
  for (size_t b = 0; b < (size_t)shape->batch; ++b) {
    const size_t first = b * work.channels * work.pixels;
    edge_conv_sample(&work.conv, b, call->scratch);
    work.out = (edge_output_view){
        .data = (float *)out->data + first,
        .residual = residual != NULL ? (const float *)residual->data + first : NULL,
        .row_step = out->channels_last ? work.channels : 1,
        .step = out->channels_last ? 1 : work.pixels,
    };
    if (work.conv.codes == NULL) {
      edge_parallel(pool, parts, convolve_part, &work);
    } else {
      edge_parallel(pool, blocks((size_t)shape->out_height, work.rows), convolve_rows, &work);
    }
  }
  return EDGE_OK;
}

static edge_status check_conv2d(edge_call *call) { return check(call, &conv2d); }
static edge_status run_conv2d(edge_call *call) { return run(call, &conv2d); }
static void pack_conv2d(edge_call *call) { edge_pack_conv(call, &conv2d); }
static edge_status check_conv2d_int8(edge_call *call) { return check(call, &conv2d_int8); }
static edge_status run_conv2d_int8(edge_call *call) { return run(call, &conv2d_int8); }
static void pack_conv2d_int8(edge_call *call) { edge_pack_conv(call, &conv2d_int8); }
static edge_status check_ternary_conv2d(edge_call *call) { return check(call, &ternary_conv2d); }
static edge_status run_ternary_conv2d(edge_call *call) { return run(call, &ternary_conv2d); }
static void pack_ternary_conv2d(edge_call *call) { edge_pack_conv(call, &ternary_conv2d); }
static edge_status check_aten_convolution(edge_call *call) {
  bool transposed;
  EDGE_TRY(edge_take_bool(call, 6, "transposed", &transposed));
  if (transposed) return edge_fail(call, EDGE_UNSUPPORTED, "transposed convolutions are not supported");
  return check(call, &aten_convolution);
}
static edge_status run_aten_convolution(edge_call *call) { return run(call, &aten_convolution); }
static void pack_aten_convolution(edge_call *call) { edge_pack_conv(call, &aten_convolution); }

/* A sample, or those of its rows that an output needs and its successors do not, is quantized before the outputs are
 * written: they may be in the same place, where they are as many. A residual is read where the output is written. Float convolutions read their neighbours. */
#define COVERS .covers = 1u << X | 1u << 4
/* x, the residual and the output are taken in either order. */
#define IMAGES(residual, out) .channels_last = 1u << X | 1u << (residual) | 1u << (out), .alike = {residual, out}

const edge_op edge_op_edge_conv2d = {"edge::conv2d.out", 10, 1, check_conv2d, run_conv2d, pack_conv2d, IMAGES(3, 9)};
const edge_op edge_op_edge_conv2d_int8 = {"edge::conv2d_int8.out", 11, 1, check_conv2d_int8, run_conv2d_int8,
                                          pack_conv2d_int8, COVERS, IMAGES(4, 10)};
const edge_op edge_op_edge_ternary_conv2d = {"edge::ternary_conv2d.out", 11, 1, check_ternary_conv2d,
                                             run_ternary_conv2d, pack_ternary_conv2d, COVERS, IMAGES(4, 10)};
const edge_op edge_op_aten_convolution = {
    .name = "aten::convolution.out",
    .arg_count = 10,
    .out_count = 1,
    .check = check_aten_convolution,
    .run = run_aten_convolution,
    .pack = pack_aten_convolution,
    .channels_last = 1u << X | 1u << 9,
};
