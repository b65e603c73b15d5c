/* aten operators that only move elements: views, copies, permutations, slices, concatenation, padding. */
#include "ops/ops.h"
#include "ops/walk.h"

#include <string.h>

/* Steps of a contiguous tensor, in elements. */
static void steps_of(const edge_tensor *tensor, int64_t steps[EDGE_MAX_RANK]) {
  int64_t step = 1;
  for (uint32_t d = tensor->rank; d-- > 0;) {
    steps[d] = step;
    step *= tensor->sizes[d];
  }
}

/* Any dtype, and an output of the same. */
static edge_status take_input(edge_call *call, const edge_tensor **x) {
  return edge_take_tensor(call, 0, "self", EDGE_COPYABLE, x);
}
static edge_status check_out(edge_call *call, uint32_t out, const int32_t *sizes, uint32_t rank) {
  return edge_take_output(call, out, "out", EDGE_BIT(edge_tensor_at(call, 0)->dtype), sizes, rank);
}

/* --- the same elements in the same order ----------------------------------------------------------------------- */

static edge_status copy_all(edge_call *call, uint32_t out) {
  const edge_tensor *x = edge_tensor_at(call, 0);
  memmove(edge_tensor_at(call, out)->data, x->data, (size_t)edge_elements(x) * edge_dtype_bytes(x->dtype));
  return EDGE_OK;
}
static edge_status copy_to_1(edge_call *call) { return copy_all(call, 1); }
static edge_status copy_to_2(edge_call *call) { return copy_all(call, 2); }

/* aten::view_copy(self, size, out); one size may be -1 */
static edge_status check_view(edge_call *call) {
  const edge_tensor *x, *out;
  const int64_t *size;
  uint32_t count;
  EDGE_TRY(take_input(call, &x));
  EDGE_TRY(edge_take_ints(call, 1, "size", 0, EDGE_MAX_RANK, &size, &count));
  EDGE_TRY(edge_take_tensor(call, 2, "out", EDGE_BIT(x->dtype), &out));
  bool fits = count == out->rank && edge_elements(x) == edge_elements(out);
  for (uint32_t d = 0; fits && d < count; ++d) fits = size[d] == -1 || size[d] == out->sizes[d];
  edge_shape_text x_text, out_text;
  if (!fits) {
    return edge_fail(call, EDGE_BAD_ARGUMENT, "self of shape %s cannot be viewed as size in out of shape %s",
                     edge_shape_string(&x_text, x->sizes, x->rank),
                     edge_shape_string(&out_text, out->sizes, out->rank));
  }
  return EDGE_OK;
}

/* aten::unsqueeze_copy(self, dim, out) */
static edge_status check_unsqueeze(edge_call *call) {
  const edge_tensor *x;
  uint32_t dim;
  EDGE_TRY(take_input(call, &x));
  if (x->rank >= EDGE_MAX_RANK) return edge_fail(call, EDGE_UNSUPPORTED, "self has %u dimensions already", x->rank);
  EDGE_TRY(edge_take_dim(call, 1, "dim", x->rank + 1u, &dim));
  int32_t sizes[EDGE_MAX_RANK];
  for (uint32_t d = 0; d <= x->rank; ++d) sizes[d] = d < dim ? x->sizes[d] : d == dim ? 1 : x->sizes[d - 1];
  return check_out(call, 2, sizes, x->rank + 1u);
}

/* Drops the dimensions of size 1 that are in `dims`. */
static edge_status check_squeezed(edge_call *call, uint32_t dims, uint32_t out) {
  const edge_tensor *x = edge_tensor_at(call, 0);
  int32_t sizes[EDGE_MAX_RANK];
  uint32_t rank = 0;
  for (uint32_t d = 0; d < x->rank; ++d) {
    if (x->sizes[d] != 1 || (dims >> d & 1u) == 0) sizes[rank++] = x->sizes[d];
  }
  return check_out(call, out, sizes, rank);
}

/* aten::squeeze_copy(self, out), (self, dim, out) and (self, dim[], out) */
static edge_status check_squeeze(edge_call *call) {
  const edge_tensor *x;
  EDGE_TRY(take_input(call, &x));
  return check_squeezed(call, ~0u, 1);
}
static edge_status check_squeeze_dim(edge_call *call) {
  const edge_tensor *x;
  uint32_t dim;
  EDGE_TRY(take_input(call, &x));
  EDGE_TRY(edge_take_dim(call, 1, "dim", x->rank, &dim));
  return check_squeezed(call, 1u << dim, 2);
}
static edge_status check_squeeze_dims(edge_call *call) {
  const edge_tensor *x;
  const int64_t *list;
  uint32_t count, dims = 0;
  EDGE_TRY(take_input(call, &x));
  EDGE_TRY(edge_take_ints(call, 1, "dim", 0, EDGE_MAX_RANK, &list, &count));
  const int64_t span = x->rank > 0 ? x->rank : 1;
  for (uint32_t i = 0; i < count; ++i) {
    if (list[i] < -span || list[i] >= span) {
      return edge_fail(call, EDGE_BAD_ARGUMENT, "dim %lld is out of range", (long long)list[i]);
    }
    dims |= 1u << (list[i] < 0 ? list[i] + span : list[i]);
  }
  return check_squeezed(call, dims, 2);
}

/* --- copies that may convert ----------------------------------------------------------------------------------- */

/* Converts to the dtype of `out`. */
static edge_status convert(edge_call *call, uint32_t out_at) {
  const edge_tensor *x = edge_tensor_at(call, 0), *out = edge_tensor_at(call, out_at);
  if (x->dtype == out->dtype) return copy_all(call, out_at);
  for (int64_t i = 0, n = edge_elements(x); i < n; ++i) {
    if (edge_is_float(x)) {
      edge_store_float(out, i, edge_load_float(x, i));
    } else {
      edge_store_int(out, i, edge_load_int(x, i));
    }
  }
  return EDGE_OK;
}
static edge_status convert_to_2(edge_call *call) { return convert(call, 2); }
static edge_status convert_to_3(edge_call *call) { return convert(call, 3); }

/* None, contiguous (0) or preserve (1); tensors here are always contiguous. */
static edge_status check_memory_format(edge_call *call, uint32_t index) {
  int64_t format;
  EDGE_TRY(edge_take_optional_int(call, index, "memory_format", 0, 127, 0, &format));
  if (format > 1) return edge_fail(call, EDGE_UNSUPPORTED, "memory_format is not contiguous");
  return EDGE_OK;
}

/* aten::clone(self, memory_format?, out) */
static edge_status check_clone(edge_call *call) {
  const edge_tensor *x;
  EDGE_TRY(take_input(call, &x));
  EDGE_TRY(check_memory_format(call, 1));
  return check_out(call, 2, x->sizes, x->rank);
}

/* aten::alias_copy, detach_copy and lift_fresh_copy (self, out) */
static edge_status check_alias(edge_call *call) {
  const edge_tensor *x;
  EDGE_TRY(take_input(call, &x));
  return check_out(call, 1, x->sizes, x->rank);
}

/* aten::_to_copy(self, non_blocking, memory_format?, out): the dtype is out's */
static edge_status check_to_copy(edge_call *call) {
  const edge_tensor *x;
  bool non_blocking;
  EDGE_TRY(take_input(call, &x));
  EDGE_TRY(edge_take_bool(call, 1, "non_blocking", &non_blocking));
  EDGE_TRY(check_memory_format(call, 2));
  return edge_take_output(call, 3, "out", EDGE_COPYABLE, x->sizes, x->rank);
}

/* dim_order_ops::_to_dim_order_copy and _clone_dim_order (self, non_blocking, dim_order?, out) */
static edge_status check_dim_order(edge_call *call) {
  const edge_tensor *x;
  const int64_t *order;
  uint32_t count;
  bool non_blocking;
  EDGE_TRY(take_input(call, &x));
  EDGE_TRY(edge_take_bool(call, 1, "non_blocking", &non_blocking));
  EDGE_TRY(edge_take_ints(call, 2, "dim_order", 0, EDGE_MAX_RANK, &order, &count));
  for (uint32_t d = 0; d < count; ++d) {
    if (order[d] != d) return edge_fail(call, EDGE_UNSUPPORTED, "dim_order is not contiguous");
  }
  return edge_take_output(call, 3, "out", EDGE_COPYABLE, x->sizes, x->rank);
}

/* --- other orders and parts ------------------------------------------------------------------------------------ */

/* Copies x, seen with `steps` from `offset` on, to `out`. */
static edge_status copy_strided(edge_call *call, uint32_t out_at, const int64_t *steps, int64_t offset) {
  const edge_tensor *x = edge_tensor_at(call, 0), *out = edge_tensor_at(call, out_at);
  const size_t bytes = edge_dtype_bytes(x->dtype);
  edge_walk walk;
  edge_walk_over(&walk, out->sizes, out->rank);
  if (out->rank > 0) memcpy(walk.step[0], steps, out->rank * sizeof steps[0]);
  edge_copy_walked(&walk, (const char *)x->data + offset * (int64_t)bytes, out->data, bytes);
  return EDGE_OK;
}

/* aten::permute_copy(self, dims, out) */
static edge_status read_permutation(edge_call *call, uint32_t order[EDGE_MAX_RANK]) {
  const edge_tensor *x = edge_tensor_at(call, 0);
  const int64_t *dims;
  uint32_t count, seen = 0;
  EDGE_TRY(edge_take_ints(call, 1, "dims", x->rank, x->rank, &dims, &count));
  for (uint32_t d = 0; d < count; ++d) {
    const int64_t dim = dims[d] < 0 ? dims[d] + x->rank : dims[d];
    if (dim < 0 || dim >= x->rank || (seen >> dim & 1u)) {
      return edge_fail(call, EDGE_BAD_ARGUMENT, "dims is no permutation of %u dimensions", (unsigned)x->rank);
    }
    seen |= 1u << dim;
    order[d] = (uint32_t)dim;
  }
  return EDGE_OK;
}

static edge_status check_permuted(edge_call *call, const uint32_t *order, uint32_t out) {
  const edge_tensor *x = edge_tensor_at(call, 0);
  int32_t sizes[EDGE_MAX_RANK];
  for (uint32_t d = 0; d < x->rank; ++d) sizes[d] = x->sizes[order[d]];
  return check_out(call, out, sizes, x->rank);
}

static edge_status run_permuted(edge_call *call, const uint32_t *order, uint32_t out) {
  const edge_tensor *x = edge_tensor_at(call, 0);
  int64_t steps[EDGE_MAX_RANK], permuted[EDGE_MAX_RANK];
  steps_of(x, steps);
  for (uint32_t d = 0; d < x->rank; ++d) permuted[d] = steps[order[d]];
  return copy_strided(call, out, permuted, 0);
}

static edge_status check_permute(edge_call *call) {
  const edge_tensor *x;
  uint32_t order[EDGE_MAX_RANK];
  EDGE_TRY(take_input(call, &x));
  EDGE_TRY(read_permutation(call, order));
  return check_permuted(call, order, 2);
}
static edge_status run_permute(edge_call *call) {
  uint32_t order[EDGE_MAX_RANK];
  EDGE_TRY(read_permutation(call, order));
  return run_permuted(call, order, 2);
}

/* aten::transpose_copy(self, dim0, dim1, out) */
static edge_status read_transposition(edge_call *call, uint32_t order[EDGE_MAX_RANK]) {
  const edge_tensor *x = edge_tensor_at(call, 0);
  uint32_t first, second;
  EDGE_TRY(edge_take_dim(call, 1, "dim0", x->rank, &first));
  EDGE_TRY(edge_take_dim(call, 2, "dim1", x->rank, &second));
  for (uint32_t d = 0; d < EDGE_MAX_RANK; ++d) order[d] = d == first ? second : d == second ? first : d;
  return EDGE_OK;
}
static edge_status check_transpose(edge_call *call) {
  const edge_tensor *x;
  uint32_t order[EDGE_MAX_RANK];
  EDGE_TRY(take_input(call, &x));
  EDGE_TRY(read_transposition(call, order));
  return check_permuted(call, order, 3);
}
static edge_status run_transpose(edge_call *call) {
  uint32_t order[EDGE_MAX_RANK];
  EDGE_TRY(read_transposition(call, order));
  return run_permuted(call, order, 3);
}

/* aten::expand_copy(self, size, implicit, out); -1 keeps a size */
static edge_status check_expand(edge_call *call) {
  const edge_tensor *x;
  const int64_t *size;
  uint32_t count;
  bool implicit;
  EDGE_TRY(take_input(call, &x));
  EDGE_TRY(edge_take_ints(call, 1, "size", x->rank, EDGE_MAX_RANK, &size, &count));
  EDGE_TRY(edge_take_bool(call, 2, "implicit", &implicit));
  int32_t sizes[EDGE_MAX_RANK];
  for (uint32_t d = 0; d < count; ++d) {
    const bool new = d < count - x->rank;
    const int32_t old = new ? 1 : x->sizes[d - (count - x->rank)];
    const int64_t wanted = size[d] == -1 && !new ? old : size[d];
    if (wanted < 0 || wanted > INT32_MAX || (old != 1 && wanted != old)) {
      return edge_fail(call, EDGE_BAD_ARGUMENT, "size %d of self does not expand to %lld", (int)old,
                       (long long)size[d]);
    }
    sizes[d] = (int32_t)wanted;
  }
  return check_out(call, 3, sizes, count);
}
static edge_status run_expand(edge_call *call) {
  const edge_tensor *x = edge_tensor_at(call, 0), *out = edge_tensor_at(call, 3);
  edge_walk walk;
  edge_walk_over(&walk, out->sizes, out->rank);
  edge_walk_broadcast(&walk, 0, x);
  edge_copy_walked(&walk, x->data, out->data, edge_dtype_bytes(x->dtype));
  return EDGE_OK;
}

/* aten::select_copy(self, dim, index, out) */
static edge_status read_select(edge_call *call, uint32_t *dim, int64_t *index) {
  const edge_tensor *x = edge_tensor_at(call, 0);
  if (x->rank < 1) return edge_fail(call, EDGE_BAD_ARGUMENT, "self has no dimensions");
  EDGE_TRY(edge_take_dim(call, 1, "dim", x->rank, dim));
  const int64_t size = x->sizes[*dim];
  EDGE_TRY(edge_take_int(call, 2, "index", -size, size - 1, index));
  if (*index < 0) *index += size;
  return EDGE_OK;
}
static edge_status check_select(edge_call *call) {
  const edge_tensor *x;
  uint32_t dim;
  int64_t index;
  EDGE_TRY(take_input(call, &x));
  EDGE_TRY(read_select(call, &dim, &index));
  int32_t sizes[EDGE_MAX_RANK];
  for (uint32_t d = 0; d + 1 < x->rank; ++d) sizes[d] = x->sizes[d < dim ? d : d + 1];
  return check_out(call, 3, sizes, x->rank - 1u);
}
static edge_status run_select(edge_call *call) {
  const edge_tensor *x = edge_tensor_at(call, 0);
  uint32_t dim;
  int64_t index, steps[EDGE_MAX_RANK], left[EDGE_MAX_RANK];
  EDGE_TRY(read_select(call, &dim, &index));
  steps_of(x, steps);
  for (uint32_t d = 0; d + 1 < x->rank; ++d) left[d] = steps[d < dim ? d : d + 1];
  return copy_strided(call, 3, left, index * steps[dim]);
}

/* aten::slice_copy(self, dim, start?, end?, step, out); ends are clamped as in Python */
typedef struct slice {
  uint32_t dim;
  int64_t start, step, count;
} slice;

static int64_t clamp_index(int64_t index, int64_t size) {
  if (index < 0) index = index < -size ? 0 : index + size;
  return index > size ? size : index;
}

static edge_status read_slice(edge_call *call, slice *part) {
  const edge_tensor *x = edge_tensor_at(call, 0);
  int64_t start, end;
  if (x->rank < 1) return edge_fail(call, EDGE_BAD_ARGUMENT, "self has no dimensions");
  EDGE_TRY(edge_take_dim(call, 1, "dim", x->rank, &part->dim));
  EDGE_TRY(edge_take_optional_int(call, 2, "start", INT64_MIN, INT64_MAX, 0, &start));
  EDGE_TRY(edge_take_optional_int(call, 3, "end", INT64_MIN, INT64_MAX, INT64_MAX, &end));
  EDGE_TRY(edge_take_int(call, 4, "step", 1, INT32_MAX, &part->step));
  const int64_t size = x->sizes[part->dim];
  part->start = clamp_index(start, size);
  end = clamp_index(end, size);
  part->count = end > part->start ? (end - part->start + part->step - 1) / part->step : 0;
  return EDGE_OK;
}
static edge_status check_slice(edge_call *call) {
  const edge_tensor *x;
  slice part;
  EDGE_TRY(take_input(call, &x));
  EDGE_TRY(read_slice(call, &part));
  int32_t sizes[EDGE_MAX_RANK];
  memcpy(sizes, x->sizes, x->rank * sizeof sizes[0]);
  sizes[part.dim] = (int32_t)part.count;
  return check_out(call, 5, sizes, x->rank);
}
static edge_status run_slice(edge_call *call) {
  const edge_tensor *x = edge_tensor_at(call, 0);
  slice part;
  int64_t steps[EDGE_MAX_RANK];
  EDGE_TRY(read_slice(call, &part));
  steps_of(x, steps);
  const int64_t offset = part.start * steps[part.dim];
  steps[part.dim] *= part.step;
  return copy_strided(call, 5, steps, offset);
}

const edge_op edge_op_aten_view_copy = {"aten::view_copy.out", 3, 1, check_view, copy_to_2};
const edge_op edge_op_aten_unsqueeze_copy = {"aten::unsqueeze_copy.out", 3, 1, check_unsqueeze, copy_to_2};
const edge_op edge_op_aten_squeeze_copy = {"aten::squeeze_copy.out", 2, 1, check_squeeze, copy_to_1};
const edge_op edge_op_aten_squeeze_copy_dim = {"aten::squeeze_copy.dim_out", 3, 1, check_squeeze_dim, copy_to_2};
const edge_op edge_op_aten_squeeze_copy_dims = {"aten::squeeze_copy.dims_out", 3, 1, check_squeeze_dims, copy_to_2};
const edge_op edge_op_aten_clone = {"aten::clone.out", 3, 1, check_clone, convert_to_2};
const edge_op edge_op_aten_alias_copy = {"aten::alias_copy.out", 2, 1, check_alias, copy_to_1};
const edge_op edge_op_aten_detach_copy = {"aten::detach_copy.out", 2, 1, check_alias, copy_to_1};
const edge_op edge_op_aten_lift_fresh_copy = {"aten::lift_fresh_copy.out", 2, 1, check_alias, copy_to_1};
const edge_op edge_op_aten_to_copy = {"aten::_to_copy.out", 4, 1, check_to_copy, convert_to_3};
const edge_op edge_op_dim_order_to_copy = {"dim_order_ops::_to_dim_order_copy.out", 4, 1, check_dim_order,
                                           convert_to_3};
const edge_op edge_op_dim_order_clone = {"dim_order_ops::_clone_dim_order.out", 4, 1, check_dim_order, convert_to_3};
const edge_op edge_op_aten_permute_copy = {"aten::permute_copy.out", 3, 1, check_permute, run_permute};
const edge_op edge_op_aten_transpose_copy = {"aten::transpose_copy.int_out", 4, 1, check_transpose, run_transpose};
const edge_op edge_op_aten_expand_copy = {"aten::expand_copy.out", 4, 1, check_expand, run_expand};
const edge_op edge_op_aten_select_copy = {"aten::select_copy.int_out", 4, 1, check_select, run_select};
const edge_op edge_op_aten_slice_copy = {"aten::slice_copy.Tensor_out", 6, 1, check_slice, run_slice};
