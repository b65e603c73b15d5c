/* aten reductions: mean, sum, amax, amin, any, argmax, argmin, max and min along dimensions. */
#include "ops/ops.h"
#include "ops/walk.h"

#include <math.h>
#include <string.h>

/* Which dimensions are reduced, as bits. */
typedef uint32_t dim_set;

/* From a list of dimensions; None and the empty list stand for all. */
static edge_status take_dims(edge_call *call, uint32_t index, uint32_t rank, dim_set *out) {
  const int64_t *dims = NULL;
  uint32_t count = 0;
  EDGE_TRY(edge_take_ints(call, index, "dim", 0, EDGE_MAX_RANK, &dims, &count));
  const int64_t span = rank > 0 ? rank : 1;
  *out = count == 0 ? (1u << span) - 1u : 0;
  for (uint32_t i = 0; i < count; ++i) {
    if (dims[i] < -span || dims[i] >= span) {
      return edge_fail(call, EDGE_BAD_ARGUMENT, "dim %lld is not in %lld .. %lld", (long long)dims[i], (long long)-span,
                       (long long)span - 1);
    }
    const dim_set bit = 1u << (dims[i] < 0 ? dims[i] + span : dims[i]);
    if (*out & bit) return edge_fail(call, EDGE_BAD_ARGUMENT, "dim %lld is listed twice", (long long)dims[i]);
    *out |= bit;
  }
  return EDGE_OK;
}

/* From one dimension; None stands for all. */
static edge_status take_dim_or_all(edge_call *call, uint32_t index, uint32_t rank, dim_set *out) {
  *out = (1u << (rank > 0 ? rank : 1)) - 1u;
  if (index < call->arg_count && call->args[index] != NULL && call->args[index]->kind == EDGE_NONE) return EDGE_OK;
  uint32_t dim;
  EDGE_TRY(edge_take_dim(call, index, "dim", rank, &dim));
  *out = 1u << dim;
  return EDGE_OK;
}

static edge_status check_reduced(edge_call *call, const edge_tensor *x, dim_set dims, bool keep, uint32_t out,
                                 const char *name, uint32_t dtypes) {
  int32_t sizes[EDGE_MAX_RANK] = {0};
  uint32_t rank = 0;
  for (uint32_t d = 0; d < x->rank; ++d) {
    const bool reduced = dims >> d & 1u;
    if (!reduced || keep) sizes[rank++] = reduced ? 1 : x->sizes[d];
  }
  return edge_take_output(call, out, name, dtypes, sizes, rank);
}

/* Splits x into the walk over the elements of the output and, for each, the walk over what is reduced into it. */
typedef struct reduction {
  edge_walk kept, reduced;
  int64_t count; /* elements reduced into one */
} reduction;

static void split(reduction *split, const edge_tensor *x, dim_set dims) {
  int32_t sizes[2][EDGE_MAX_RANK] = {{0}};
  int64_t steps[2][EDGE_MAX_RANK], step = 1;
  uint32_t rank[2] = {0, 0};
  for (uint32_t d = x->rank; d-- > 0;) { /* backwards: steps grow from the last dimension */
    const uint32_t side = dims >> d & 1u;
    const bool channel = x->channels_last && d == 1, pixel = x->channels_last && d > 1;
    sizes[side][EDGE_MAX_RANK - 1 - rank[side]] = x->sizes[d];
    steps[side][EDGE_MAX_RANK - 1 - rank[side]++] = channel ? 1 : pixel ? step * x->sizes[1] : step;
    step *= x->sizes[d];
  }
  edge_walk *walks[2] = {&split->kept, &split->reduced};
  for (uint32_t side = 0; side < 2; ++side) {
    edge_walk_over(walks[side], sizes[side] + EDGE_MAX_RANK - rank[side], rank[side]);
    for (uint32_t d = 0; d < rank[side]; ++d) {
      walks[side]->step[0][d] = steps[side][EDGE_MAX_RANK - rank[side] + d];
    }
  }
  split->count = 1;
  for (uint32_t d = 0; d < split->reduced.rank; ++d) split->count *= split->reduced.size[d];
}

/* Calls `one` for each output element with the place of its first input element. */
static edge_status reduce(edge_call *call, const edge_tensor *x, dim_set dims,
                          void (*one)(edge_call *call, const edge_tensor *x, int64_t base, edge_walk reduced,
                                      int64_t count, int64_t at)) {
  reduction over;
  split(&over, x, dims);
  int64_t at = 0;
  for (; over.kept.more; edge_walk_next(&over.kept)) {
    for (int64_t i = 0; i < over.kept.row; ++i) {
      one(call, x, over.kept.offset[0] + i * edge_walk_step(&over.kept, 0), over.reduced, over.count, at++);
    }
  }
  return EDGE_OK;
}

/* Rows first, then the rows' sums: two short sums lose less than one long one. */
static float sum_floats(const float *x, edge_walk walk) {
  float total = 0.0f;
  const int64_t step = edge_walk_step(&walk, 0);
  for (; walk.more; edge_walk_next(&walk)) {
    float sum = 0.0f;
    for (int64_t i = 0; i < walk.row; ++i) sum += x[walk.offset[0] + i * step];
    total += sum;
  }
  return total;
}

/* --- mean(self, dim[]?, keepdim, dtype?, out) and sum ---------------------------------------------------------- */

enum { SELF, DIM, KEEP, DTYPE, SUM_OUT };

static edge_status check_dtype(edge_call *call, const edge_tensor *out) {
  int64_t dtype;
  EDGE_TRY(edge_take_optional_int(call, DTYPE, "dtype", 0, 127, out->dtype, &dtype));
  if (dtype != out->dtype) return edge_fail(call, EDGE_UNSUPPORTED, "dtype differs from that of out");
  return EDGE_OK;
}

static edge_status check_sum(edge_call *call, uint32_t dtypes, uint32_t out_dtypes) {
  const edge_tensor *x;
  dim_set dims;
  bool keep;
  EDGE_TRY(edge_take_tensor(call, SELF, "self", dtypes, &x));
  EDGE_TRY(take_dims(call, DIM, x->rank, &dims));
  EDGE_TRY(edge_take_bool(call, KEEP, "keepdim", &keep));
  EDGE_TRY(check_reduced(call, x, dims, keep, SUM_OUT, "out", edge_is_float(x) ? EDGE_F32 : out_dtypes));
  return check_dtype(call, edge_tensor_at(call, SUM_OUT));
}

static edge_status check_mean(edge_call *call) { return check_sum(call, EDGE_F32, EDGE_F32); }

/* Over the pixels of an image with its channels last: all channels at a time, each in the order of sum_floats. */
static void mean_of_pixels(const edge_tensor *x, float *out) {
  enum { BLOCK = 16 };
  const size_t channels = (size_t)x->sizes[1], height = (size_t)x->sizes[2], width = (size_t)x->sizes[3];
  const float *in = x->data;
  for (size_t b = 0; b < (size_t)x->sizes[0]; ++b, out += channels) {
    for (size_t c = 0; c < channels; ++c) out[c] = 0.0f;
    for (size_t h = 0; h < height; ++h, in += width * channels) {
      size_t c = 0;
      for (; c + BLOCK <= channels; c += BLOCK) { /* in registers */
        float sum[BLOCK] = {0};
        for (size_t w = 0; w < width; ++w) {
          for (size_t i = 0; i < BLOCK; ++i) sum[i] += in[w * channels + c + i];
        }
        for (size_t i = 0; i < BLOCK; ++i) out[c + i] += sum[i];
      }
      for (; c < channels; ++c) {
        float sum = 0.0f;
        for (size_t w = 0; w < width; ++w) sum += in[w * channels + c];
        out[c] += sum;
      }
    }
    for (size_t c = 0; c < channels; ++c) out[c] /= (float)(height * width);
  }
}
static edge_status check_sum_dims(edge_call *call) { return check_sum(call, EDGE_NUMBER, EDGE_I64); }

static void mean_one(edge_call *call, const edge_tensor *x, int64_t base, edge_walk reduced, int64_t count,
                     int64_t at) {
  const float sum = sum_floats((const float *)x->data + base, reduced);
  ((float *)edge_tensor_at(call, SUM_OUT)->data)[at] = sum / (float)(size_t)count; /* not more than are in memory */
}

static void sum_one(edge_call *call, const edge_tensor *x, int64_t base, edge_walk reduced, int64_t count, int64_t at) {
  (void)count;
  const edge_tensor *out = edge_tensor_at(call, SUM_OUT);
  if (edge_is_float(x)) {
    ((float *)out->data)[at] = sum_floats((const float *)x->data + base, reduced);
    return;
  }
  uint64_t sum = 0; /* unsigned: wraps where a file's integers overflow */
  for (; reduced.more; edge_walk_next(&reduced)) {
    for (int64_t i = 0; i < reduced.row; ++i) {
      sum += (uint64_t)edge_load_int(x, base + reduced.offset[0] + i * edge_walk_step(&reduced, 0));
    }
  }
  edge_store_int(out, at, (int64_t)sum);
}

static edge_status run_with_dims(edge_call *call,
                                 void (*one)(edge_call *, const edge_tensor *, int64_t, edge_walk, int64_t, int64_t)) {
  dim_set dims;
  EDGE_TRY(take_dims(call, DIM, edge_tensor_at(call, SELF)->rank, &dims));
  return reduce(call, edge_tensor_at(call, SELF), dims, one);
}

static edge_status run_mean(edge_call *call) {
  const edge_tensor *x = edge_tensor_at(call, SELF);
  dim_set dims;
  EDGE_TRY(take_dims(call, DIM, x->rank, &dims));
  if (!x->channels_last || dims != (1u << 2 | 1u << 3)) return run_with_dims(call, mean_one);
  mean_of_pixels(x, edge_tensor_at(call, SUM_OUT)->data);
  return EDGE_OK;
}
static edge_status run_sum(edge_call *call) { return run_with_dims(call, sum_one); }

/* --- extremes -------------------------------------------------------------------------------------------------- */

typedef struct extreme {
  float value;
  int64_t where; /* in the order of the reduced elements */
} extreme;

/* The first of the largest (or smallest) values; the first NaN wins over all, as in torch. */
static extreme find(const float *x, edge_walk walk, bool largest) {
  extreme best = {largest ? -INFINITY : INFINITY, 0};
  const int64_t step = edge_walk_step(&walk, 0);
  for (int64_t at = 0; walk.more; edge_walk_next(&walk)) {
    for (int64_t i = 0; i < walk.row; ++i, ++at) {
      const float value = x[walk.offset[0] + i * step];
      if (value != value) return (extreme){value, at};
      if (largest ? value > best.value : value < best.value) best = (extreme){value, at};
    }
  }
  return best;
}

static edge_status check_not_empty(edge_call *call, const edge_tensor *x) {
  if (edge_elements(x) == 0) return edge_fail(call, EDGE_BAD_ARGUMENT, "self has no elements to compare");
  return EDGE_OK;
}

/* aten::amax(self, dim[], keepdim, out) */
static edge_status check_amax(edge_call *call) {
  const edge_tensor *x;
  dim_set dims;
  bool keep;
  EDGE_TRY(edge_take_tensor(call, 0, "self", EDGE_F32, &x));
  EDGE_TRY(check_not_empty(call, x));
  EDGE_TRY(take_dims(call, 1, x->rank, &dims));
  EDGE_TRY(edge_take_bool(call, 2, "keepdim", &keep));
  return check_reduced(call, x, dims, keep, 3, "out", EDGE_F32);
}

static void amax_one(edge_call *call, const edge_tensor *x, int64_t base, edge_walk reduced, int64_t count,
                     int64_t at) {
  (void)count;
  ((float *)edge_tensor_at(call, 3)->data)[at] = find((const float *)x->data + base, reduced, true).value;
}
static void amin_one(edge_call *call, const edge_tensor *x, int64_t base, edge_walk reduced, int64_t count,
                     int64_t at) {
  (void)count;
  ((float *)edge_tensor_at(call, 3)->data)[at] = find((const float *)x->data + base, reduced, false).value;
}
static edge_status run_amax(edge_call *call) { return run_with_dims(call, amax_one); }
static edge_status run_amin(edge_call *call) { return run_with_dims(call, amin_one); }

/* aten::argmax(self, dim?, keepdim, out) */
static edge_status check_argmax(edge_call *call) {
  const edge_tensor *x;
  dim_set dims;
  bool keep;
  EDGE_TRY(edge_take_tensor(call, 0, "self", EDGE_F32, &x));
  EDGE_TRY(check_not_empty(call, x));
  EDGE_TRY(take_dim_or_all(call, 1, x->rank, &dims));
  EDGE_TRY(edge_take_bool(call, 2, "keepdim", &keep));
  return check_reduced(call, x, dims, keep, 3, "out", EDGE_I64);
}

static void argmax_one(edge_call *call, const edge_tensor *x, int64_t base, edge_walk reduced, int64_t count,
                       int64_t at) {
  (void)count;
  ((int64_t *)edge_tensor_at(call, 3)->data)[at] = find((const float *)x->data + base, reduced, true).where;
}
static void argmin_one(edge_call *call, const edge_tensor *x, int64_t base, edge_walk reduced, int64_t count,
                       int64_t at) {
  (void)count;
  ((int64_t *)edge_tensor_at(call, 3)->data)[at] = find((const float *)x->data + base, reduced, false).where;
}

static edge_status run_with_dim(edge_call *call,
                                void (*one)(edge_call *, const edge_tensor *, int64_t, edge_walk, int64_t, int64_t)) {
  dim_set dims;
  EDGE_TRY(take_dim_or_all(call, 1, edge_tensor_at(call, 0)->rank, &dims));
  return reduce(call, edge_tensor_at(call, 0), dims, one);
}
static edge_status run_argmax(edge_call *call) { return run_with_dim(call, argmax_one); }
static edge_status run_argmin(edge_call *call) { return run_with_dim(call, argmin_one); }

/* aten::max(self, dim, keepdim, values, indices) */
static edge_status check_max_dim(edge_call *call) {
  const edge_tensor *x;
  uint32_t dim;
  bool keep;
  EDGE_TRY(edge_take_tensor(call, 0, "self", EDGE_F32, &x));
  EDGE_TRY(check_not_empty(call, x));
  EDGE_TRY(edge_take_dim(call, 1, "dim", x->rank, &dim));
  EDGE_TRY(edge_take_bool(call, 2, "keepdim", &keep));
  EDGE_TRY(check_reduced(call, x, 1u << dim, keep, 3, "values", EDGE_F32));
  return check_reduced(call, x, 1u << dim, keep, 4, "indices", EDGE_I64);
}

static void max_dim_one(edge_call *call, const edge_tensor *x, int64_t base, edge_walk reduced, int64_t count,
                        int64_t at) {
  (void)count;
  const extreme best = find((const float *)x->data + base, reduced, true);
  ((float *)edge_tensor_at(call, 3)->data)[at] = best.value;
  ((int64_t *)edge_tensor_at(call, 4)->data)[at] = best.where;
}
static void min_dim_one(edge_call *call, const edge_tensor *x, int64_t base, edge_walk reduced, int64_t count,
                        int64_t at) {
  (void)count;
  const extreme best = find((const float *)x->data + base, reduced, false);
  ((float *)edge_tensor_at(call, 3)->data)[at] = best.value;
  ((int64_t *)edge_tensor_at(call, 4)->data)[at] = best.where;
}
static edge_status run_max_dim(edge_call *call) { return run_with_dim(call, max_dim_one); }
static edge_status run_min_dim(edge_call *call) { return run_with_dim(call, min_dim_one); }

/* --- any ------------------------------------------------------------------------------------------------------- */

static bool any_of(const edge_tensor *x, int64_t base, edge_walk walk) {
  const int64_t step = edge_walk_step(&walk, 0);
  for (; walk.more; edge_walk_next(&walk)) {
    for (int64_t i = 0; i < walk.row; ++i) {
      const int64_t at = base + walk.offset[0] + i * step;
      if (edge_is_float(x) ? edge_load_float(x, at) != 0.0f : edge_load_int(x, at) != 0) return true;
    }
  }
  return false;
}

static edge_status check_any(edge_call *call, edge_status (*take)(edge_call *, uint32_t, uint32_t, dim_set *)) {
  const edge_tensor *x;
  dim_set dims;
  bool keep;
  EDGE_TRY(edge_take_tensor(call, 0, "self", EDGE_NUMBER, &x));
  EDGE_TRY(take(call, 1, x->rank, &dims));
  EDGE_TRY(edge_take_bool(call, 2, "keepdim", &keep));
  return check_reduced(call, x, dims, keep, 3, "out", EDGE_TRUTH);
}
static edge_status check_any_dim(edge_call *call) { return check_any(call, take_dim_or_all); }
static edge_status check_any_dims(edge_call *call) { return check_any(call, take_dims); }
static edge_status check_any_all(edge_call *call) {
  const edge_tensor *x;
  EDGE_TRY(edge_take_tensor(call, 0, "self", EDGE_NUMBER, &x));
  return edge_take_output(call, 1, "out", EDGE_TRUTH, x->sizes, 0);
}

static void any_one(edge_call *call, const edge_tensor *x, int64_t base, edge_walk reduced, int64_t count, int64_t at) {
  (void)count;
  ((uint8_t *)edge_tensor_at(call, 3)->data)[at] = any_of(x, base, reduced);
}
static edge_status run_any_dim(edge_call *call) { return run_with_dim(call, any_one); }
static edge_status run_any_dims(edge_call *call) { return run_with_dims(call, any_one); }
static edge_status run_any_all(edge_call *call) {
  const edge_tensor *x = edge_tensor_at(call, 0);
  edge_walk walk;
  edge_walk_over(&walk, x->sizes, x->rank);
  edge_walk_broadcast(&walk, 0, x);
  *(uint8_t *)edge_tensor_at(call, 1)->data = any_of(x, 0, walk);
  return EDGE_OK;
}

const edge_op edge_op_aten_mean = {
    .name = "aten::mean.out", .arg_count = 5, .out_count = 1, .check = check_mean, .run = run_mean, .channels_last = 1};
const edge_op edge_op_aten_sum = {"aten::sum.IntList_out", 5, 1, check_sum_dims, run_sum};
const edge_op edge_op_aten_amax = {"aten::amax.out", 4, 1, check_amax, run_amax};
const edge_op edge_op_aten_amin = {"aten::amin.out", 4, 1, check_amax, run_amin};
const edge_op edge_op_aten_argmax = {"aten::argmax.out", 4, 1, check_argmax, run_argmax};
const edge_op edge_op_aten_argmin = {"aten::argmin.out", 4, 1, check_argmax, run_argmin};
const edge_op edge_op_aten_max_dim = {"aten::max.dim_max", 5, 2, check_max_dim, run_max_dim};
const edge_op edge_op_aten_min_dim = {"aten::min.dim_min", 5, 2, check_max_dim, run_min_dim};
const edge_op edge_op_aten_any = {"aten::any.out", 4, 1, check_any_dim, run_any_dim};
const edge_op edge_op_aten_any_dims = {"aten::any.dims_out", 4, 1, check_any_dims, run_any_dims};
const edge_op edge_op_aten_any_all = {"aten::any.all_out", 2, 1, check_any_all, run_any_all};
