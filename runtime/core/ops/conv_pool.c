/* A convolution and the maximum over windows of its outputs, of which never more than some rows are held:
 *
 *   edge::conv2d_max_pool2d(x, weight, bias?, stride, padding, dilation, groups, activation, pool…, out),
 *   edge::conv2d_int8_max_pool2d(x, weight, scales, bias?, stride, padding, dilation, groups, activation, pool…, out),
 *   edge::ternary_conv2d_max_pool2d(x, packed, scales, bias?, kernel, stride, padding, dilation, activation, pool…, out)
 *
 * where `pool…` is kernel, stride, padding, dilation, ceil_mode as of edge::max_pool2d. The results are those of the two
 * operators one after the other, bit by bit.
 *
 * A task has some rows of the pool's output. It computes the rows of the convolution that these want a strip at a time;
 * what the next strip wants too is moved to its start. Where there are several tasks, rows at their borders are computed
 * by both neighbours.
 */
#include <string.h>

#include "ops/convolution.h"
#include "ops/ops.h"
#include "ops/pool.h"

typedef struct layout {
  edge_conv_layout conv;
  uint32_t pool; /* the first of its arguments */
} layout;

static const layout of_floats = {{EDGE_CONV_FLOAT, 0, 2, 0, 0, 3, 6, 7}, 8};
static const layout of_int8 = {{EDGE_CONV_INT8, 2, 3, 0, 0, 4, 7, 8}, 9};
static const layout of_ternary = {{EDGE_CONV_TERNARY, 2, 3, 0, 4, 5, 0, 8}, 9};

/* Pixels that a strip adds at least, where the kernels take many at a time: two of their blocks. */
#define PIXELS_AT_ONCE ((size_t)EDGE_ROW_BLOCK * 2)

static edge_status take_pool(edge_call *call, const layout *at, const edge_conv2d *shape, edge_pooling *pool) {
  const int32_t size[2] = {shape->out_height, shape->out_width};
  return edge_take_pooling(call, at->pool, at->pool + 3, at->pool + 4, size, pool);
}

/* Whether the kernels take many pixels at a time; where they do not, memory is what counts. */
static bool are_blocked(const edge_call *call) { return call->kernels->qd8_f32_qc8w_conv2d.packed_bytes != NULL; }

static size_t pooled_together(const edge_call *call) { return are_blocked(call) ? EDGE_POOLED_TOGETHER : 1; }

/* Rows of the pool's output that a strip is for. */
static size_t rows_at_once(const edge_call *call, const edge_pooling *pool) {
  const size_t wanted = are_blocked(call) ? blocks(PIXELS_AT_ONCE, (size_t)pool->stride[0] * (size_t)pool->size[1]) : 1;
  return smaller(wanted, (size_t)pool->out_size[0]);
}

/* Rows of the convolution in a strip. */
static size_t strip_rows(const edge_call *call, const edge_pooling *pool) {
  const size_t rows = (rows_at_once(call, pool) - 1) * (size_t)pool->stride[0] +
                      ((size_t)pool->kernel[0] - 1) * (size_t)pool->dilation[0] + 1;
  return smaller(rows, (size_t)pool->size[0]);
}

/* What a thread has: a strip, what the pool wants, what the convolution's kernel does. */
typedef struct thread_memory {
  uint64_t strip, room, all;
} thread_memory;

static thread_memory memory_of(const edge_call *call, const edge_conv2d *shape, const edge_pooling *pool,
                               const edge_conv_scratch *scratch) {
  const size_t channels = (size_t)shape->out_channels;
  thread_memory memory = {
      .strip = edge_whole_lines((uint64_t)strip_rows(call, pool) * (uint64_t)shape->out_width * channels * sizeof(float)),
      .room = edge_whole_lines(pooled_together(call) * channels * sizeof(float)),
  };
  memory.all = memory.strip + memory.room + scratch->thread;
  return memory;
}

static edge_status check(edge_call *call, const layout *at) {
  edge_conv2d shape;
  edge_conv_scratch scratch;
  edge_pooling pool;
  EDGE_TRY(edge_check_conv(call, &at->conv, &shape, &scratch));
  if (edge_tensor_at(call, 0)->rank != 4) return edge_fail(call, EDGE_BAD_ARGUMENT, "x is not [B, C, H, W]");
  EDGE_TRY(take_pool(call, at, &shape, &pool));
  const int32_t sizes[4] = {shape.batch, shape.out_channels, pool.out_size[0], pool.out_size[1]};
  EDGE_TRY(edge_take_output(call, edge_first_output(call->op), "out", EDGE_F32, sizes, 4));
  return edge_reserve(call, scratch.image + memory_of(call, &shape, &pool, &scratch).all *
                                                edge_thread_count(call->threads));
}

/* What the tasks of one sample share. */
typedef struct job {
  const edge_call *call;
  edge_convolution conv;
  edge_pooling pool;
  thread_memory memory;
  char *scratch; /* of the threads */
  float *out;
  size_t pixel_step, channel_step;
  size_t rows, at_once; /* of the pool's output, a task and a strip */
} job;

/* The first of the convolution's rows that no output before `row` needs; where windows are dilated, that of the window
 * itself may lie further down than the next one's. */
static size_t first_needed(const edge_pooling *pool, size_t row) {
  const int64_t start = (int64_t)row * pool->stride[0] - pool->padding[0];
  return start < 0 ? 0 : smaller((size_t)start, (size_t)pool->size[0]);
}

static void pool_rows(void *context, size_t task, size_t thread) {
  job *work = context;
  const edge_pooling *pool = &work->pool;
  char *own = work->scratch + thread * work->memory.all;
  float *strip = (float *)(void *)own, *room = (float *)(void *)(own + work->memory.strip);
  const size_t channels = (size_t)work->conv.shape.out_channels, width = (size_t)pool->size[1], line = width * channels;
  const size_t end = smaller((task + 1) * work->rows, (size_t)pool->out_size[0]);
  size_t held = 0, computed = 0; /* rows of the convolution in the strip: held .. computed - 1 */
  for (size_t first = task * work->rows; first < end; first += work->at_once) {
    const size_t last = smaller(first + work->at_once, end);
    const size_t from = first_needed(pool, first);
    const size_t to = (size_t)edge_window_at(pool, 0, (int32_t)last - 1).end;
    const size_t kept = from < computed ? computed - from : 0;
    if (kept > 0) memmove(strip, strip + (from - held) * line, kept * line * sizeof *strip);
    held = from;
    if (from + kept < to) {
      /* The kernels count pixels from the whole output's first, which would lie before the strip. */
      const uintptr_t origin = (uintptr_t)strip - from * line * sizeof *strip;
      const edge_output_view out = {.data = (float *)origin, .row_step = channels, .step = 1};
      edge_conv_rows(&work->conv, from + kept, to, &out, own + work->memory.strip + work->memory.room);
    }
    computed = from + kept < to ? to : from + kept;
    const edge_pixels pixels = {strip, (int64_t)from, channels};
    for (size_t y = first; y < last; ++y) {
      float *out = work->out + y * (size_t)pool->out_size[1] * work->pixel_step;
      edge_max_pixels(work->call->kernels, pool, &pixels, (int32_t)y, out, work->pixel_step, work->channel_step, room,
                      pooled_together(work->call));
    }
  }
}

static edge_status run(edge_call *call, const layout *at) {
  const edge_tensor *out = edge_tensor_at(call, edge_first_output(call->op));
  job work = {.call = call};
  EDGE_TRY(edge_open_conv(call, &at->conv, &work.conv));
  const edge_conv2d *shape = &work.conv.shape;
  EDGE_TRY(take_pool(call, at, shape, &work.pool));
  const size_t height = (size_t)work.pool.out_size[0], plane = height * (size_t)work.pool.out_size[1];
  const size_t channels = (size_t)shape->out_channels;
  edge_threads *threads = edge_threads_for(call, (double)call->macs / work.conv.macs_a_nanosecond);
  work.memory = memory_of(call, shape, &work.pool, &work.conv.scratch);
  work.scratch = (char *)call->scratch + work.conv.scratch.image;
  work.pixel_step = out->channels_last ? channels : 1;
  work.channel_step = out->channels_last ? 1 : plane;
  work.rows = blocks(height, edge_thread_count(threads));
  work.at_once = rows_at_once(call, &work.pool);
  for (size_t b = 0; b < (size_t)shape->batch; ++b) {
    edge_conv_sample(&work.conv, b, call->scratch);
    work.out = (float *)out->data + b * channels * plane;
    edge_parallel(threads, blocks(height, work.rows), pool_rows, &work);
  }
  return EDGE_OK;
}

static edge_status check_floats(edge_call *call) { return check(call, &of_floats); }
static edge_status run_floats(edge_call *call) { return run(call, &of_floats); }
static void pack_floats(edge_call *call) { edge_pack_conv(call, &of_floats.conv); }
static edge_status check_int8(edge_call *call) { return check(call, &of_int8); }
static edge_status run_int8(edge_call *call) { return run(call, &of_int8); }
static void pack_int8(edge_call *call) { edge_pack_conv(call, &of_int8.conv); }
static edge_status check_ternary(edge_call *call) { return check(call, &of_ternary); }
static edge_status run_ternary(edge_call *call) { return run(call, &of_ternary); }
static void pack_ternary(edge_call *call) { edge_pack_conv(call, &of_ternary.conv); }

#define IMAGES(out) .channels_last = 1u << 0 | 1u << (out)

const edge_op edge_op_edge_conv2d_max_pool2d = {"edge::conv2d_max_pool2d.out", 14, 1, check_floats, run_floats,
                                                pack_floats, IMAGES(13)};
const edge_op edge_op_edge_conv2d_int8_max_pool2d = {"edge::conv2d_int8_max_pool2d.out", 15, 1, check_int8, run_int8,
                                                     pack_int8, IMAGES(14)};
const edge_op edge_op_edge_ternary_conv2d_max_pool2d = {"edge::ternary_conv2d_max_pool2d.out", 15, 1, check_ternary,
                                                        run_ternary, pack_ternary, IMAGES(14)};
