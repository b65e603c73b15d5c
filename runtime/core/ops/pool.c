/* Pooling: edge::max_pool2d(x, kernel, stride, padding, dilation, ceil_mode, out), aten::max_pool2d_with_indices,
 * aten::avg_pool2d and aten::_adaptive_avg_pool2d, over [B, C, H, W] or [C, H, W].
 */
#include "ops/pool.h"

#include "ops/ops.h"

#include <math.h>
#include <string.h>

edge_status edge_take_pooling(edge_call *call, uint32_t first, uint32_t dilation, uint32_t ceil_mode,
                              const int32_t size[2], edge_pooling *pool) {
  const int64_t *stride = NULL;
  uint32_t strides = 0;
  bool ceiling = false;
  EDGE_TRY(edge_take_pair(call, first, "kernel_size", 1, pool->kernel));
  EDGE_TRY(edge_take_ints(call, first + 1, "stride", 0, 2, &stride, &strides));
  memcpy(pool->stride, pool->kernel, sizeof pool->stride);
  if (strides > 0) EDGE_TRY(edge_take_pair(call, first + 1, "stride", 1, pool->stride));
  EDGE_TRY(edge_take_pair(call, first + 2, "padding", 0, pool->padding));
  pool->dilation[0] = pool->dilation[1] = 1;
  if (dilation) EDGE_TRY(edge_take_pair(call, dilation, "dilation", 1, pool->dilation));
  EDGE_TRY(edge_take_bool(call, ceil_mode, "ceil_mode", &ceiling));
  for (uint32_t d = 0; d < 2; ++d) {
    pool->size[d] = size[d];
    if (2 * pool->padding[d] > pool->kernel[d]) {
      return edge_fail(call, EDGE_BAD_ARGUMENT, "padding %d is more than half of kernel size %d", (int)pool->padding[d],
                       (int)pool->kernel[d]);
    }
    const int64_t count = edge_window_count(pool->size[d], pool->kernel[d], pool->stride[d], pool->padding[d],
                                            pool->dilation[d], ceiling);
    if (count < 1 || count > INT32_MAX) {
      return edge_fail(call, EDGE_BAD_ARGUMENT, "the window is larger than the padded input");
    }
    pool->out_size[d] = (int32_t)count;
  }
  return EDGE_OK;
}

static edge_status read_geometry(edge_call *call, uint32_t first, uint32_t dilation, uint32_t ceil_mode,
                                 edge_pooling *pool) {
  const edge_tensor *x = edge_tensor_at(call, 0);
  if (x->rank != 3 && x->rank != 4) {
    return edge_fail(call, EDGE_BAD_ARGUMENT, "input has %u dimensions, expected 3 or 4", (unsigned)x->rank);
  }
  return edge_take_pooling(call, first, dilation, ceil_mode, x->sizes + x->rank - 2, pool);
}

/* Images of one channel each. */
static int64_t planes_of(const edge_call *call) {
  const edge_tensor *x = edge_tensor_at(call, 0);
  return edge_product(x->sizes, 0, x->rank - 2u);
}

static edge_status check_output(edge_call *call, uint32_t index, const char *name, uint32_t dtypes,
                                const int32_t out_size[2]) {
  const edge_tensor *x = edge_tensor_at(call, 0);
  int32_t sizes[EDGE_MAX_RANK];
  memcpy(sizes, x->sizes, x->rank * sizeof sizes[0]);
  sizes[x->rank - 2] = out_size[0];
  sizes[x->rank - 1] = out_size[1];
  return edge_take_output(call, index, name, dtypes, sizes, x->rank);
}

edge_window edge_window_at(const edge_pooling *pool, int d, int32_t out) {
  const int64_t start = (int64_t)out * pool->stride[d] - pool->padding[d];
  const int64_t stop = start + (int64_t)(pool->kernel[d] - 1) * pool->dilation[d] + 1;
  const int64_t skipped = start < 0 ? (-start + pool->dilation[d] - 1) / pool->dilation[d] : 0;
  return (edge_window){start + skipped * pool->dilation[d], stop < pool->size[d] ? stop : pool->size[d]};
}

/* --- maximum --------------------------------------------------------------------------------------------------- */

enum { MAX_KERNEL = 1, MAX_DILATION = 4, MAX_CEIL = 5, MAX_OUT = 6, MAX_INDICES = 7 };

/* Columns that the windows of a row of outputs span, and how many of every stride_w-th column there are. */
static size_t span_of(const edge_pooling *pool) {
  return ((size_t)pool->out_size[1] - 1) * (size_t)pool->stride[1] +
         ((size_t)pool->kernel[1] - 1) * (size_t)pool->dilation[1] + 1;
}
static size_t phase_of(const edge_pooling *pool) { return span_of(pool) / (size_t)pool->stride[1] + 1; }

/* Temporary memory a thread: for a row of columns and one of outputs, or for the channels of some pixels. */
static size_t thread_bytes(const edge_pooling *pool, size_t channels) {
  const size_t row = span_of(pool) + (size_t)pool->stride[1] * phase_of(pool) + (size_t)pool->out_size[1];
  const size_t pixels = EDGE_POOLED_TOGETHER * channels;
  return (size_t)edge_whole_lines((row > pixels ? row : pixels) * sizeof(float));
}

static size_t channels_of(const edge_tensor *x) { return x->rank == 4 ? (size_t)x->sizes[1] : 1; }

static edge_status check_max_pool2d(edge_call *call) {
  const edge_tensor *x;
  edge_pooling pool;
  EDGE_TRY(edge_take_tensor(call, 0, "x", EDGE_F32, &x));
  EDGE_TRY(read_geometry(call, MAX_KERNEL, MAX_DILATION, MAX_CEIL, &pool));
  EDGE_TRY(edge_reserve(call, (uint64_t)thread_bytes(&pool, channels_of(x)) * edge_thread_count(call->threads)));
  return check_output(call, MAX_OUT, "out", EDGE_F32, pool.out_size);
}

static edge_status check_max_pool2d_with_indices(edge_call *call) {
  edge_pooling pool;
  EDGE_TRY(check_max_pool2d(call));
  EDGE_TRY(read_geometry(call, MAX_KERNEL, MAX_DILATION, MAX_CEIL, &pool));
  return check_output(call, MAX_INDICES, "indices", EDGE_I64, pool.out_size);
}

typedef struct max_job {
  const edge_call *call;
  edge_pooling pool;
  int64_t planes; /* a task */
} max_job;

/* The largest of vectors that are named one after the other, some at a time. */
enum { VECTORS_AT_ONCE = 16 };
typedef struct largest {
  const edge_kernels *kernels;
  size_t n;
  float *out;
  const float *vectors[VECTORS_AT_ONCE];
  size_t count;
  bool begun; /* what came before is in `out` */
} largest;

static void flush(largest *own) {
  own->kernels->f32_largest(own->n, own->count, own->vectors, own->out);
  own->vectors[0] = own->out;
  own->count = 1;
  own->begun = true;
}

static void add(largest *own, const float *vector) {
  if (own->count == VECTORS_AT_ONCE) flush(own);
  own->vectors[own->count++] = vector;
}

static void finish(largest *own) {
  if (own->count > (own->begun ? 1u : 0u)) flush(own);
  for (size_t i = 0; !own->begun && i < own->n; ++i) own->out[i] = -INFINITY; /* a window all in the padding */
}

/* One row of outputs: first down the rows of its windows, then across, where the columns that all windows have at the
 * same place lie side by side. */
static void max_row(const edge_kernels *kernels, const edge_pooling *pool, const float *x, int32_t oy, float *line,
                    float *out) {
  const size_t span = span_of(pool), phase = phase_of(pool), stride = (size_t)pool->stride[1];
  const size_t width = (size_t)pool->size[1], padding = (size_t)pool->padding[1];
  const size_t columns = (size_t)pool->out_size[1];
  const edge_window rows = edge_window_at(pool, 0, oy);
  for (size_t i = 0; i < span; ++i) line[i] = -INFINITY;
  if (padding < span) {
    largest own = {.kernels = kernels, .n = span - padding < width ? span - padding : width, .out = line + padding};
    for (int64_t y = rows.first; y < rows.end; y += pool->dilation[0]) add(&own, x + (size_t)y * width);
    finish(&own);
  }
  float *phases = line + span;
  if (stride == 1) {
    phases = line;
  } else {
    for (size_t p = 0; p < stride; ++p) {
      for (size_t i = 0; i * stride + p < span; ++i) phases[p * phase + i] = line[i * stride + p];
    }
  }
  largest own = {.kernels = kernels, .n = columns, .out = out};
  for (size_t k = 0; k < (size_t)pool->kernel[1]; ++k) {
    const size_t at = k * (size_t)pool->dilation[1];
    add(&own, phases + at % stride * phase + at / stride);
  }
  finish(&own);
}

/* All channels of a pixel at a time. */
void edge_max_pixels(const edge_kernels *kernels, const edge_pooling *pool, const edge_pixels *x, int32_t oy,
                     float *out, size_t pixel_step, size_t channel_step, float *room, size_t together) {
  const edge_window rows = edge_window_at(pool, 0, oy);
  const size_t channels = x->channels;
  for (int32_t ox = 0; ox < pool->out_size[1]; ++ox) {
    const edge_window columns = edge_window_at(pool, 1, ox);
    const size_t held = (size_t)ox % together;
    float *direct = out + (size_t)ox * pixel_step;
    largest own = {.kernels = kernels, .n = channels, .out = channel_step == 1 ? direct : room + held * channels};
    for (int64_t i = columns.first; i < columns.end; i += pool->dilation[1]) {
      for (int64_t y = rows.first; y < rows.end; y += pool->dilation[0]) {
        add(&own, x->data + (size_t)((y - x->first_row) * pool->size[1] + i) * channels);
      }
    }
    finish(&own);
    if (channel_step == 1 || (held + 1 < together && ox + 1 < pool->out_size[1])) continue;
    float *first = direct - held * pixel_step;
    for (size_t c = 0; c < channels; ++c) {
      for (size_t i = 0; i <= held; ++i) first[c * channel_step + i * pixel_step] = room[i * channels + c];
    }
  }
}

/* Tasks are rows of outputs of one sample after the other. */
static void max_rows_of_pixels(void *context, size_t task, size_t thread) {
  const max_job *work = context;
  const edge_pooling *pool = &work->pool;
  const edge_tensor *x = edge_tensor_at(work->call, 0), *result = edge_tensor_at(work->call, MAX_OUT);
  const size_t channels = (size_t)x->sizes[1], height = (size_t)pool->out_size[0], width = (size_t)pool->out_size[1];
  const size_t sample = task / height, oy = task % height;
  const float *in = (const float *)x->data + sample * channels * (size_t)pool->size[0] * (size_t)pool->size[1];
  float *out = (float *)result->data + sample * channels * height * width;
  float *line = (float *)((char *)work->call->scratch + thread * thread_bytes(pool, channels));
  const edge_kernels *kernels = work->call->kernels;
  const edge_pixels pixels = {in, 0, channels};
  if (result->channels_last) {
    edge_max_pixels(kernels, pool, &pixels, (int32_t)oy, out + oy * width * channels, channels, 1, line,
                    EDGE_POOLED_TOGETHER);
  } else {
    edge_max_pixels(kernels, pool, &pixels, (int32_t)oy, out + oy * width, 1, height * width, line, EDGE_POOLED_TOGETHER);
  }
}

static void max_planes(void *context, size_t task, size_t thread) {
  const max_job *work = context;
  const edge_pooling *pool = &work->pool;
  const int64_t first = (int64_t)task * work->planes, all = planes_of(work->call);
  const int64_t last = first + work->planes < all ? first + work->planes : all;
  const int64_t plane = (int64_t)pool->size[0] * pool->size[1];
  const size_t room = thread_bytes(pool, channels_of(edge_tensor_at(work->call, 0)));
  float *line = (float *)((char *)work->call->scratch + thread * room);
  const edge_tensor *result = edge_tensor_at(work->call, MAX_OUT);
  const size_t columns = (size_t)pool->out_size[1];
  float *row = line + span_of(pool) + (size_t)pool->stride[1] * phase_of(pool);
  for (int64_t p = first; p < last; ++p) {
    for (int32_t oy = 0; oy < pool->out_size[0]; ++oy) {
      const float *x = (const float *)edge_tensor_at(work->call, 0)->data + p * plane;
      if (!result->channels_last) {
        float *out = (float *)result->data + (size_t)(p * pool->out_size[0] + oy) * columns;
        max_row(work->call->kernels, pool, x, oy, line, out);
        continue;
      }
      const int64_t channels = result->sizes[1], sample = p / channels;
      float *out = (float *)result->data + p % channels;
      max_row(work->call->kernels, pool, x, oy, line, row);
      for (size_t i = 0; i < columns; ++i) {
        out[((size_t)(sample * pool->out_size[0] + oy) * columns + i) * (size_t)channels] = row[i];
      }
    }
  }
}

/* The maxima and where they are, one by one. */
static void max_pool_indices(const edge_pooling *pool, int64_t planes, const float *x, float *out, int64_t *indices) {
  for (int64_t p = 0; p < planes; ++p, x += (int64_t)pool->size[0] * pool->size[1]) {
    for (int32_t oy = 0; oy < pool->out_size[0]; ++oy) {
      const edge_window rows = edge_window_at(pool, 0, oy);
      for (int32_t ox = 0; ox < pool->out_size[1]; ++ox) {
        const edge_window columns = edge_window_at(pool, 1, ox);
        float best = -INFINITY;
        int64_t where = rows.first * pool->size[1] + columns.first;
        for (int64_t y = rows.first; y < rows.end; y += pool->dilation[0]) {
          for (int64_t i = columns.first; i < columns.end; i += pool->dilation[1]) {
            const float value = x[y * pool->size[1] + i];
            if (value > best || value != value) {
              best = value;
              where = y * pool->size[1] + i;
            }
          }
        }
        *out++ = best;
        *indices++ = where;
      }
    }
  }
}

static edge_status run_max_pool2d(edge_call *call) {
  edge_pooling pool;
  EDGE_TRY(read_geometry(call, MAX_KERNEL, MAX_DILATION, MAX_CEIL, &pool));
  edge_threads *workers = edge_threads_for(call, 0.05 * (double)edge_elements(edge_tensor_at(call, MAX_OUT)) *
                                                    pool.kernel[0] * pool.kernel[1]);
  const size_t threads = edge_thread_count(workers);
  const int64_t tasks = threads > 1 ? 4 * (int64_t)threads : 1;
  max_job work = {.call = call, .pool = pool, .planes = (planes_of(call) + tasks - 1) / tasks};
  if (edge_tensor_at(call, 0)->channels_last) {
    const size_t rows = (size_t)edge_tensor_at(call, 0)->sizes[0] * (size_t)pool.out_size[0];
    edge_parallel(workers, rows, max_rows_of_pixels, &work);
  } else if (work.planes > 0) {
    edge_parallel(workers, (size_t)((planes_of(call) + work.planes - 1) / work.planes), max_planes, &work);
  }
  return EDGE_OK;
}

static edge_status run_max_pool2d_with_indices(edge_call *call) {
  edge_pooling pool;
  EDGE_TRY(read_geometry(call, MAX_KERNEL, MAX_DILATION, MAX_CEIL, &pool));
  max_pool_indices(&pool, planes_of(call), edge_tensor_at(call, 0)->data, edge_tensor_at(call, MAX_OUT)->data,
                   edge_tensor_at(call, MAX_INDICES)->data);
  return EDGE_OK;
}

/* --- average --------------------------------------------------------------------------------------------------- */

enum { AVG_KERNEL = 1, AVG_CEIL = 4, AVG_COUNT_PAD = 5, AVG_DIVISOR = 6, AVG_OUT = 7 };

static edge_status check_avg_pool2d(edge_call *call) {
  const edge_tensor *x;
  edge_pooling pool;
  bool count_pad;
  int64_t divisor;
  EDGE_TRY(edge_take_tensor(call, 0, "self", EDGE_F32, &x));
  EDGE_TRY(read_geometry(call, AVG_KERNEL, 0, AVG_CEIL, &pool));
  EDGE_TRY(edge_take_bool(call, AVG_COUNT_PAD, "count_include_pad", &count_pad));
  EDGE_TRY(edge_take_optional_int(call, AVG_DIVISOR, "divisor_override", 1, INT32_MAX, 0, &divisor));
  return check_output(call, AVG_OUT, "out", EDGE_F32, pool.out_size);
}

static float window_sum(const float *x, int64_t width, edge_window rows, edge_window columns) {
  float sum = 0.0f;
  for (int64_t y = rows.first; y < rows.end; ++y) {
    for (int64_t i = columns.first; i < columns.end; ++i) sum += x[y * width + i];
  }
  return sum;
}

/* Positions of a window within the padded input, as torch counts them. */
static int64_t padded_extent(const edge_pooling *pool, int d, int32_t out) {
  const int64_t start = (int64_t)out * pool->stride[d] - pool->padding[d];
  const int64_t stop = start + pool->kernel[d], limit = (int64_t)pool->size[d] + pool->padding[d];
  return (stop < limit ? stop : limit) - start;
}

static edge_status run_avg_pool2d(edge_call *call) {
  edge_pooling pool;
  EDGE_TRY(read_geometry(call, AVG_KERNEL, 0, AVG_CEIL, &pool));
  const bool count_pad = edge_bool_at(call, AVG_COUNT_PAD);
  const int64_t divisor = call->args[AVG_DIVISOR]->kind == EDGE_NONE ? 0 : edge_int_at(call, AVG_DIVISOR);
  const float *x = edge_tensor_at(call, 0)->data;
  float *out = edge_tensor_at(call, AVG_OUT)->data;
  for (int64_t p = 0; p < planes_of(call); ++p, x += (int64_t)pool.size[0] * pool.size[1]) {
    for (int32_t oy = 0; oy < pool.out_size[0]; ++oy) {
      const edge_window rows = edge_window_at(&pool, 0, oy);
      for (int32_t ox = 0; ox < pool.out_size[1]; ++ox) {
        const edge_window columns = edge_window_at(&pool, 1, ox);
        const int64_t count = divisor     ? divisor
                              : count_pad ? padded_extent(&pool, 0, oy) * padded_extent(&pool, 1, ox)
                                          : (rows.end - rows.first) * (columns.end - columns.first);
        *out++ = window_sum(x, pool.size[1], rows, columns) / (float)count;
      }
    }
  }
  return EDGE_OK;
}

static edge_status check_adaptive_avg_pool2d(edge_call *call) {
  const edge_tensor *x;
  int32_t out_size[2];
  EDGE_TRY(edge_take_tensor(call, 0, "self", EDGE_F32, &x));
  if ((x->rank != 3 && x->rank != 4) || x->sizes[x->rank - 2] < 1 || x->sizes[x->rank - 1] < 1) {
    return edge_fail(call, EDGE_BAD_ARGUMENT, "input is not [B, C, H, W] or [C, H, W] with H, W >= 1");
  }
  EDGE_TRY(edge_take_pair(call, 1, "output_size", 1, out_size));
  return check_output(call, 2, "out", EDGE_F32, out_size);
}

static edge_window adaptive_window(int64_t size, int64_t out_size, int64_t at) {
  return (edge_window){at * size / out_size, ((at + 1) * size + out_size - 1) / out_size};
}

static edge_status run_adaptive_avg_pool2d(edge_call *call) {
  const edge_tensor *x = edge_tensor_at(call, 0), *y = edge_tensor_at(call, 2);
  const int32_t height = x->sizes[x->rank - 2], width = x->sizes[x->rank - 1];
  const int32_t out_height = y->sizes[y->rank - 2], out_width = y->sizes[y->rank - 1];
  const int64_t planes = edge_product(x->sizes, 0, x->rank - 2u);
  const float *in = x->data;
  float *out = y->data;
  for (int64_t p = 0; p < planes; ++p, in += (int64_t)height * width) {
    for (int32_t oy = 0; oy < out_height; ++oy) {
      const edge_window rows = adaptive_window(height, out_height, oy);
      for (int32_t ox = 0; ox < out_width; ++ox) {
        const edge_window columns = adaptive_window(width, out_width, ox);
        const int64_t count = (rows.end - rows.first) * (columns.end - columns.first);
        *out++ = window_sum(in, width, rows, columns) / (float)count;
      }
    }
  }
  return EDGE_OK;
}

const edge_op edge_op_edge_max_pool2d = {
    .name = "edge::max_pool2d.out",
    .arg_count = 7,
    .out_count = 1,
    .check = check_max_pool2d,
    .run = run_max_pool2d,
    .channels_last = 1u << 0 | 1u << MAX_OUT,
};
const edge_op edge_op_aten_max_pool2d_with_indices = {"aten::max_pool2d_with_indices.out", 8, 2,
                                                      check_max_pool2d_with_indices, run_max_pool2d_with_indices};
const edge_op edge_op_aten_avg_pool2d = {"aten::avg_pool2d.out", 8, 1, check_avg_pool2d, run_avg_pool2d};
const edge_op edge_op_aten_adaptive_avg_pool2d = {"aten::_adaptive_avg_pool2d.out", 3, 1, check_adaptive_avg_pool2d,
                                                  run_adaptive_avg_pool2d};
