/* aten operators between one tensor and several: cat, split_copy, split_with_sizes_copy, unbind_copy; and padding. */
#include "ops/ops.h"
#include "ops/walk.h"

#include <string.h>

/* A tensor list whose entries are all tensors. */
static edge_status take_list(edge_call *call, uint32_t index, const char *name, const edge_value **list) {
  const edge_value *value = index < call->arg_count ? call->args[index] : NULL;
  if (value == NULL || value->kind != EDGE_TENSOR_LIST || value->count < 1) {
    return edge_fail(call, EDGE_BAD_ARGUMENT, "%s is not a list of tensors", name);
  }
  for (uint32_t i = 0; i < value->count; ++i) {
    if (value->as.tensors[i] == NULL || value->as.tensors[i]->kind != EDGE_TENSOR) {
      return edge_fail(call, EDGE_BAD_ARGUMENT, "%s[%u] is not a tensor", name, (unsigned)i);
    }
  }
  *list = value;
  return EDGE_OK;
}

/* Copies `rows` runs of `bytes` each, that begin `in_step` and `out_step` bytes apart. */
static void copy_runs(int64_t rows, size_t bytes, const char *in, size_t in_step, char *out, size_t out_step) {
  for (int64_t r = 0; r < rows; ++r) memmove(out + (size_t)r * out_step, in + (size_t)r * in_step, bytes);
}

/* --- aten::cat(tensors, dim, out) ------------------------------------------------------------------------------ */

/* torch leaves out tensors of shape [0], whatever the rank of the others. */
static bool is_nothing(const edge_tensor *tensor) { return tensor->rank == 1 && tensor->sizes[0] == 0; }

static edge_status read_cat(edge_call *call, uint32_t *dim) {
  const edge_tensor *out;
  EDGE_TRY(edge_take_tensor(call, 2, "out", EDGE_COPYABLE, &out));
  if (out->rank < 1) return edge_fail(call, EDGE_BAD_ARGUMENT, "out has no dimensions");
  return edge_take_dim(call, 1, "dim", out->rank, dim);
}

static edge_status check_cat(edge_call *call) {
  const edge_value *list;
  uint32_t dim;
  EDGE_TRY(take_list(call, 0, "tensors", &list));
  EDGE_TRY(read_cat(call, &dim));
  const edge_tensor *out = edge_tensor_at(call, 2), *part;
  int64_t total = 0;
  for (uint32_t i = 0; i < list->count; ++i) {
    EDGE_TRY(edge_validate_tensor(call, &list->as.tensors[i]->as.tensor, "an entry of tensors", EDGE_BIT(out->dtype),
                                  &part));
    if (is_nothing(part)) continue;
    int32_t sizes[EDGE_MAX_RANK];
    memcpy(sizes, out->sizes, out->rank * sizeof sizes[0]);
    if (part->rank == out->rank) sizes[dim] = part->sizes[dim];
    EDGE_TRY(edge_expect_shape(call, part, "an entry of tensors", sizes, out->rank));
    total += part->sizes[dim];
  }
  if (total != out->sizes[dim]) {
    return edge_fail(call, EDGE_BAD_ARGUMENT, "out has size %d in dimension %u, expected %lld", (int)out->sizes[dim],
                     (unsigned)dim, (long long)total);
  }
  return EDGE_OK;
}

static edge_status run_cat(edge_call *call) {
  const edge_value *list = call->args[0];
  const edge_tensor *out = edge_tensor_at(call, 2);
  uint32_t dim;
  EDGE_TRY(read_cat(call, &dim));
  const size_t inner = (size_t)edge_product(out->sizes, dim + 1, out->rank) * edge_dtype_bytes(out->dtype);
  const int64_t outer = edge_product(out->sizes, 0, dim);
  const size_t out_step = (size_t)out->sizes[dim] * inner;
  char *to = out->data;
  for (uint32_t i = 0; i < list->count; ++i) {
    const edge_tensor *part = &list->as.tensors[i]->as.tensor;
    if (is_nothing(part)) continue;
    const size_t run = (size_t)part->sizes[dim] * inner;
    copy_runs(outer, run, part->data, run, to, out_step);
    to += run;
  }
  return EDGE_OK;
}

/* --- splitting: the outputs are a tensor list ------------------------------------------------------------------ */

/* Checks that the entry has x's dtype and shape except for `size` in `dim`, or without `dim` if `size` is negative. */
static edge_status check_part(edge_call *call, const edge_tensor *x, const edge_value *entry, uint32_t dim,
                              int64_t size) {
  const edge_tensor *part;
  EDGE_TRY(edge_validate_tensor(call, &entry->as.tensor, "an entry of out", EDGE_BIT(x->dtype), &part));
  int32_t sizes[EDGE_MAX_RANK];
  uint32_t rank = 0;
  for (uint32_t d = 0; d < x->rank; ++d) {
    if (d != dim || size >= 0) sizes[rank++] = d == dim ? (int32_t)size : x->sizes[d];
  }
  return edge_expect_shape(call, part, "an entry of out", sizes, rank);
}

/* Copies consecutive parts of x along `dim` to the entries of `list`. */
static void distribute(const edge_tensor *x, uint32_t dim, const edge_value *list) {
  const size_t inner = (size_t)edge_product(x->sizes, dim + 1, x->rank) * edge_dtype_bytes(x->dtype);
  const int64_t outer = edge_product(x->sizes, 0, dim);
  const size_t in_step = (size_t)x->sizes[dim] * inner;
  if (outer == 0 || in_step == 0) return;
  const char *from = x->data;
  for (uint32_t i = 0; i < list->count; ++i) {
    const edge_tensor *part = &list->as.tensors[i]->as.tensor;
    const size_t run = (size_t)(edge_elements(part) / outer) * edge_dtype_bytes(x->dtype);
    copy_runs(outer, run, from, in_step, part->data, run);
    from += run;
  }
}

/* self, the argument at 1, dim at `dim_at`, out behind it. */
static edge_status take_split(edge_call *call, uint32_t dim_at, const edge_tensor **x, uint32_t *dim,
                              const edge_value **list) {
  EDGE_TRY(edge_take_tensor(call, 0, "self", EDGE_COPYABLE, x));
  if ((*x)->rank < 1) return edge_fail(call, EDGE_BAD_ARGUMENT, "self has no dimensions");
  EDGE_TRY(edge_take_dim(call, dim_at, "dim", (*x)->rank, dim));
  return take_list(call, dim_at + 1, "out", list);
}

/* aten::split_copy(self, split_size, dim, out[]) */
static edge_status check_split(edge_call *call) {
  const edge_tensor *x;
  const edge_value *list;
  uint32_t dim;
  int64_t size = 0;
  EDGE_TRY(take_split(call, 2, &x, &dim, &list));
  EDGE_TRY(edge_take_int(call, 1, "split_size", 1, INT32_MAX, &size));
  const int64_t whole = x->sizes[dim], count = whole > 0 ? (whole + size - 1) / size : 1;
  if (count != list->count) {
    return edge_fail(call, EDGE_BAD_ARGUMENT, "out has %u entries, expected %lld", (unsigned)list->count,
                     (long long)count);
  }
  for (int64_t i = 0; i < count; ++i) {
    const int64_t left = whole - i * size;
    EDGE_TRY(check_part(call, x, list->as.tensors[i], dim, left < size ? left : size));
  }
  return EDGE_OK;
}

/* aten::split_with_sizes_copy(self, split_sizes, dim, out[]) */
static edge_status check_split_sizes(edge_call *call) {
  const edge_tensor *x;
  const edge_value *list;
  const int64_t *sizes;
  uint32_t dim, count;
  int64_t total = 0;
  EDGE_TRY(take_split(call, 2, &x, &dim, &list));
  EDGE_TRY(edge_take_ints(call, 1, "split_sizes", list->count, list->count, &sizes, &count));
  for (uint32_t i = 0; i < count; ++i) {
    if (sizes[i] < 0 || sizes[i] > x->sizes[dim]) {
      return edge_fail(call, EDGE_BAD_ARGUMENT, "split_sizes[%u] is out of range", (unsigned)i);
    }
    EDGE_TRY(check_part(call, x, list->as.tensors[i], dim, sizes[i]));
    total += sizes[i];
  }
  if (total != x->sizes[dim]) {
    return edge_fail(call, EDGE_BAD_ARGUMENT, "split_sizes add up to %lld, expected %d", (long long)total,
                     (int)x->sizes[dim]);
  }
  return EDGE_OK;
}

static edge_status run_split(edge_call *call) {
  const edge_tensor *x = edge_tensor_at(call, 0);
  uint32_t dim;
  EDGE_TRY(edge_take_dim(call, 2, "dim", x->rank, &dim));
  distribute(x, dim, call->args[3]);
  return EDGE_OK;
}

/* aten::unbind_copy(self, dim, out[]) */
static edge_status check_unbind(edge_call *call) {
  const edge_tensor *x;
  const edge_value *list;
  uint32_t dim;
  EDGE_TRY(take_split(call, 1, &x, &dim, &list));
  if (list->count != (uint32_t)x->sizes[dim]) {
    return edge_fail(call, EDGE_BAD_ARGUMENT, "out has %u entries, expected %d", (unsigned)list->count,
                     (int)x->sizes[dim]);
  }
  for (uint32_t i = 0; i < list->count; ++i) EDGE_TRY(check_part(call, x, list->as.tensors[i], dim, -1));
  return EDGE_OK;
}

static edge_status run_unbind(edge_call *call) {
  const edge_tensor *x = edge_tensor_at(call, 0);
  uint32_t dim;
  EDGE_TRY(edge_take_dim(call, 1, "dim", x->rank, &dim));
  distribute(x, dim, call->args[2]);
  return EDGE_OK;
}

/* --- aten::constant_pad_nd(self, pad, value, out): pairs from the last dimension on; negative pads crop -------- */

/* Where x lies within out: dimension d of x begins at out[before[d]], or at -before[d] of x if that is negative. */
static edge_status read_pads(edge_call *call, int64_t before[EDGE_MAX_RANK], int64_t sizes[EDGE_MAX_RANK]) {
  const edge_tensor *x = edge_tensor_at(call, 0);
  const int64_t *pad;
  uint32_t count;
  EDGE_TRY(edge_take_ints(call, 1, "pad", 0, 2u * x->rank, &pad, &count));
  if (count % 2 != 0) return edge_fail(call, EDGE_BAD_ARGUMENT, "pad has an odd number of entries");
  for (uint32_t d = 0; d < x->rank; ++d) {
    const uint32_t pair = 2u * (x->rank - 1u - d);
    const int64_t low = pair < count ? pad[pair] : 0, high = pair < count ? pad[pair + 1] : 0;
    if (low < -INT32_MAX || low > INT32_MAX || high < -INT32_MAX || high > INT32_MAX || x->sizes[d] + low + high < 0 ||
        x->sizes[d] + low + high > INT32_MAX) {
      return edge_fail(call, EDGE_BAD_ARGUMENT, "pads %lld and %lld do not fit size %d", (long long)low,
                       (long long)high, (int)x->sizes[d]);
    }
    before[d] = low;
    sizes[d] = x->sizes[d] + low + high;
  }
  return EDGE_OK;
}

static edge_status check_pad(edge_call *call) {
  const edge_tensor *x;
  int64_t before[EDGE_MAX_RANK], wide[EDGE_MAX_RANK];
  double value;
  EDGE_TRY(edge_take_tensor(call, 0, "self", EDGE_NUMBER, &x));
  EDGE_TRY(edge_take_real(call, 2, "value", &value));
  EDGE_TRY(read_pads(call, before, wide));
  int32_t sizes[EDGE_MAX_RANK];
  for (uint32_t d = 0; d < x->rank; ++d) sizes[d] = (int32_t)wide[d];
  return edge_take_output(call, 3, "out", EDGE_BIT(x->dtype), sizes, x->rank);
}

static edge_status run_pad(edge_call *call) {
  const edge_tensor *x = edge_tensor_at(call, 0), *out = edge_tensor_at(call, 3);
  int64_t before[EDGE_MAX_RANK], sizes[EDGE_MAX_RANK];
  EDGE_TRY(read_pads(call, before, sizes));
  edge_fill(out, call->args[2]);
  const size_t bytes = edge_dtype_bytes(x->dtype);
  int32_t common[EDGE_MAX_RANK];
  int64_t steps[2][EDGE_MAX_RANK], offset[2] = {0, 0}, step[2] = {1, 1};
  for (uint32_t d = x->rank; d-- > 0;) {
    const int64_t skip = before[d] < 0 ? -before[d] : 0, start = before[d] > 0 ? before[d] : 0;
    const int64_t here = x->sizes[d] - skip, there = sizes[d] - start, overlap = here < there ? here : there;
    common[d] = overlap > 0 ? (int32_t)overlap : 0;
    steps[0][d] = step[0];
    steps[1][d] = step[1];
    offset[0] += skip * step[0];
    offset[1] += start * step[1];
    step[0] *= x->sizes[d];
    step[1] *= sizes[d];
  }
  edge_walk walk;
  edge_walk_over(&walk, common, x->rank);
  if (x->rank > 0) {
    memcpy(walk.step[0], steps[0], x->rank * sizeof(int64_t));
    memcpy(walk.step[1], steps[1], x->rank * sizeof(int64_t));
  }
  for (; walk.more; edge_walk_next(&walk)) { /* the rows of both are contiguous */
    memmove((char *)out->data + (size_t)(offset[1] + walk.offset[1]) * bytes,
            (const char *)x->data + (size_t)(offset[0] + walk.offset[0]) * bytes, (size_t)walk.row * bytes);
  }
  return EDGE_OK;
}

const edge_op edge_op_aten_cat = {"aten::cat.out", 3, 1, check_cat, run_cat};
const edge_op edge_op_aten_split_copy = {"aten::split_copy.Tensor_out", 4, 1, check_split, run_split};
const edge_op edge_op_aten_split_with_sizes_copy = {"aten::split_with_sizes_copy.out", 4, 1, check_split_sizes,
                                                    run_split};
const edge_op edge_op_aten_unbind_copy = {"aten::unbind_copy.int_out", 3, 1, check_unbind, run_unbind};
const edge_op edge_op_aten_constant_pad_nd = {"aten::constant_pad_nd.out", 4, 1, check_pad, run_pad};
