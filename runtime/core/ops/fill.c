/* aten operators that write constants: full, full_like, scalar_tensor, arange. */
#include "ops/ops.h"
#include "ops/walk.h"

#include <math.h>

static edge_status fill(edge_call *call, uint32_t value_at, uint32_t out_at) {
  edge_fill(edge_tensor_at(call, out_at), call->args[value_at]);
  return EDGE_OK;
}

/* aten::full(size, fill_value, out) */
static edge_status check_full(edge_call *call) {
  const int64_t *size;
  uint32_t count;
  double value;
  EDGE_TRY(edge_take_ints(call, 0, "size", 0, EDGE_MAX_RANK, &size, &count));
  int32_t sizes[EDGE_MAX_RANK];
  for (uint32_t d = 0; d < count; ++d) {
    if (size[d] < 0 || size[d] > INT32_MAX) {
      return edge_fail(call, EDGE_BAD_ARGUMENT, "size[%u] is out of range", (unsigned)d);
    }
    sizes[d] = (int32_t)size[d];
  }
  EDGE_TRY(edge_take_real(call, 1, "fill_value", &value));
  return edge_take_output(call, 2, "out", EDGE_NUMBER, sizes, count);
}
static edge_status run_full(edge_call *call) { return fill(call, 1, 2); }

/* aten::full_like(self, fill_value, memory_format?, out) */
static edge_status check_full_like(edge_call *call) {
  const edge_tensor *x;
  double value;
  int64_t format;
  EDGE_TRY(edge_take_tensor(call, 0, "self", EDGE_COPYABLE, &x));
  EDGE_TRY(edge_take_real(call, 1, "fill_value", &value));
  EDGE_TRY(edge_take_optional_int(call, 2, "memory_format", 0, 1, 0, &format));
  return edge_take_output(call, 3, "out", EDGE_NUMBER, x->sizes, x->rank);
}
static edge_status run_full_like(edge_call *call) { return fill(call, 1, 3); }

/* aten::scalar_tensor(s, out) */
static edge_status check_scalar_tensor(edge_call *call) {
  double value;
  EDGE_TRY(edge_take_real(call, 0, "s", &value));
  const int32_t none = 0;
  return edge_take_output(call, 1, "out", EDGE_NUMBER, &none, 0);
}
static edge_status run_scalar_tensor(edge_call *call) { return fill(call, 0, 1); }

/* aten::arange(start, end, step, out) and (end, out). Bounds are exact in a double up to 2^53. */
typedef struct range {
  double start, step;
  int32_t count;
} range;

static edge_status read_range(edge_call *call, bool only_end, range *over) {
  const double largest = 9007199254740992.0;
  double end = 0.0;
  over->start = 0.0;
  over->step = 1.0;
  if (!only_end) EDGE_TRY(edge_take_real(call, 0, "start", &over->start));
  EDGE_TRY(edge_take_real(call, only_end ? 0 : 1, "end", &end));
  if (!only_end) EDGE_TRY(edge_take_real(call, 2, "step", &over->step));
  const double count = ceil((end - over->start) / over->step);
  if (!(fabs(over->start) <= largest && fabs(end) <= largest && fabs(over->step) <= largest && over->step != 0.0 &&
        count >= 0.0 && count <= 2147483647.0)) {
    return edge_fail(call, EDGE_BAD_ARGUMENT, "from %g to %g by %g is no range", over->start, end, over->step);
  }
  over->count = (int32_t)count;
  return EDGE_OK;
}

static edge_status check_arange_at(edge_call *call, bool only_end) {
  range over;
  EDGE_TRY(read_range(call, only_end, &over));
  return edge_take_output(call, only_end ? 1 : 3, "out", EDGE_F32 | EDGE_INDEX, &over.count, 1);
}

static edge_status run_arange_at(edge_call *call, bool only_end) {
  const edge_tensor *out = edge_tensor_at(call, only_end ? 1 : 3);
  range over;
  EDGE_TRY(read_range(call, only_end, &over));
  for (int32_t i = 0; i < over.count; ++i) {
    const double value = over.start + i * over.step;
    if (edge_is_float(out)) {
      ((float *)out->data)[i] = (float)value;
    } else {
      edge_store_int(out, i, (int64_t)value);
    }
  }
  return EDGE_OK;
}

static edge_status check_arange_start(edge_call *call) { return check_arange_at(call, false); }
static edge_status run_arange_start(edge_call *call) { return run_arange_at(call, false); }
static edge_status check_arange(edge_call *call) { return check_arange_at(call, true); }
static edge_status run_arange(edge_call *call) { return run_arange_at(call, true); }

const edge_op edge_op_aten_full = {"aten::full.out", 3, 1, check_full, run_full};
const edge_op edge_op_aten_full_like = {"aten::full_like.out", 4, 1, check_full_like, run_full_like};
const edge_op edge_op_aten_scalar_tensor = {"aten::scalar_tensor.out", 2, 1, check_scalar_tensor, run_scalar_tensor};
const edge_op edge_op_aten_arange_start = {"aten::arange.start_out", 4, 1, check_arange_start, run_arange_start};
const edge_op edge_op_aten_arange = {"aten::arange.out", 2, 1, check_arange, run_arange};
