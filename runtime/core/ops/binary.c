/* aten operators of two operands with broadcasting: arithmetic, comparisons, logic, and where.
 *
 * Where both operands and the output are float32, rows run in a tight loop. Other combinations (indices, masks,
 * integer constants) go element by element: in float32 if an operand is float32, else in int64.
 */
#include "ops/ops.h"
#include "ops/walk.h"

#include <math.h>
#include <string.h>

/* One operation: over a row of floats `a_step` and `b_step` apart, on two floats, and on two integers. */
typedef struct arithmetic {
  void (*row)(int64_t n, const float *a, int64_t a_step, const float *b, int64_t b_step, float alpha, float *out);
  float (*real)(float a, float b, float alpha);
  int64_t (*integer)(int64_t a, int64_t b, int64_t alpha); /* NULL: the result is always float32 */
} arithmetic;

/* Unsigned, because a sum of two integers in a file may overflow. */
#define EDGE_WRAP(expression) ((int64_t)(expression))
#define EDGE_U(value) ((uint64_t)(value))

#define EDGE_ARITHMETIC_REAL(name, expression)                                                             \
  static float name##_real(float a, float b, float alpha) {                                                \
    (void)alpha;                                                                                           \
    return expression;                                                                                     \
  }                                                                                                        \
  static void name##_row(int64_t n, const float *left, int64_t a_step, const float *right, int64_t b_step, \
                         float alpha, float *out) {                                                        \
    (void)alpha;                                                                                           \
    for (int64_t i = 0; i < n; ++i) {                                                                      \
      const float a = left[i * a_step], b = right[i * b_step];                                             \
      out[i] = expression;                                                                                 \
    }                                                                                                      \
  }
#define EDGE_ARITHMETIC(name, real_expression, integer_expression)     \
  EDGE_ARITHMETIC_REAL(name, real_expression)                          \
  static int64_t name##_integer(int64_t a, int64_t b, int64_t alpha) { \
    (void)alpha;                                                       \
    return integer_expression;                                         \
  }                                                                    \
  static const arithmetic name = {name##_row, name##_real, name##_integer};

EDGE_ARITHMETIC(add, a + alpha * b, EDGE_WRAP(EDGE_U(a) + EDGE_U(alpha) * EDGE_U(b)))
EDGE_ARITHMETIC(sub, a - alpha * b, EDGE_WRAP(EDGE_U(a) - EDGE_U(alpha) * EDGE_U(b)))
EDGE_ARITHMETIC(mul, (a)*b, EDGE_WRAP(EDGE_U(a) * EDGE_U(b)))
EDGE_ARITHMETIC(minimum, a != a ? a : b < a || b != b ? b : a, a < b ? a : b)
EDGE_ARITHMETIC(maximum, a != a ? a : b > a || b != b ? b : a, a > b ? a : b)
EDGE_ARITHMETIC_REAL(division, a / b)
static const arithmetic division = {division_row, division_real, NULL};
EDGE_ARITHMETIC_REAL(power, powf(a, b))
static const arithmetic power = {power_row, power_real, NULL};

/* The second operand: a tensor, or a Scalar. */
static bool scalar_is_float(const edge_value *value) { return value->kind == EDGE_DOUBLE; }

/* Whether the operation is carried out in float32. */
static bool computes_float(const edge_call *call, int alpha) {
  const edge_value *other = call->args[1];
  if (edge_is_float(edge_tensor_at(call, 0))) return true;
  if (other->kind == EDGE_TENSOR ? edge_is_float(&other->as.tensor) : scalar_is_float(other)) return true;
  return alpha > 0 && scalar_is_float(call->args[alpha]);
}

/* Checks self (0), other (1, a tensor or a Scalar) and the broadcast shape of `out`. */
static edge_status check_operands(edge_call *call, uint32_t out, uint32_t out_dtypes) {
  const edge_tensor *self, *other;
  EDGE_TRY(edge_take_tensor(call, 0, "self", EDGE_NUMBER, &self));
  int32_t sizes[EDGE_MAX_RANK];
  uint32_t rank = self->rank;
  memcpy(sizes, self->sizes, self->rank * sizeof sizes[0]);
  if (call->arg_count > 1 && call->args[1] != NULL && call->args[1]->kind == EDGE_TENSOR) {
    EDGE_TRY(edge_take_tensor(call, 1, "other", EDGE_NUMBER, &other));
    EDGE_TRY(edge_broadcast_shape(call, self->sizes, self->rank, other, sizes, &rank));
  } else {
    double ignored;
    EDGE_TRY(edge_take_real(call, 1, "other", &ignored));
  }
  return edge_take_output(call, out, "out", out_dtypes, sizes, rank);
}

/* `alpha` is the index of that argument, or 0. */
static edge_status check_arithmetic(edge_call *call, uint32_t alpha, uint32_t out, bool always_float) {
  EDGE_TRY(check_operands(call, out, EDGE_NUMBER));
  double ignored;
  if (alpha) EDGE_TRY(edge_take_real(call, alpha, "alpha", &ignored));
  if ((always_float || computes_float(call, (int)alpha)) && !edge_is_float(edge_tensor_at(call, out))) {
    return edge_fail(call, EDGE_UNSUPPORTED, "out is %s, but the result is float32",
                     edge_dtype_name(edge_tensor_at(call, out)->dtype));
  }
  return EDGE_OK;
}

static edge_status run_arithmetic(edge_call *call, const arithmetic *operation, uint32_t alpha_at, uint32_t out_at) {
  const edge_tensor *self = edge_tensor_at(call, 0), *out = edge_tensor_at(call, out_at);
  const edge_tensor *other = call->args[1]->kind == EDGE_TENSOR ? edge_tensor_at(call, 1) : NULL;
  const bool real = operation->integer == NULL || computes_float(call, (int)alpha_at);
  const float alpha = alpha_at ? (float)edge_real_at(call, alpha_at) : 1.0f;
  const int64_t whole_alpha = !real && alpha_at ? edge_whole(call->args[alpha_at]) : 1;
  const float scalar = other != NULL ? 0.0f : (float)edge_real_at(call, 1);
  const int64_t whole_scalar = other != NULL || real ? 0 : edge_whole(call->args[1]);
  const bool floats = edge_is_float(self) && (other == NULL || edge_is_float(other)); /* then so is out */

  edge_walk walk;
  edge_walk_over(&walk, out->sizes, out->rank);
  edge_walk_broadcast(&walk, 0, self);
  if (other != NULL) edge_walk_broadcast(&walk, 1, other);
  const int64_t a_step = edge_walk_step(&walk, 0), b_step = edge_walk_step(&walk, 1);
  for (int64_t at = 0; walk.more; edge_walk_next(&walk), at += walk.row) {
    if (floats) {
      const float *b = other != NULL ? (const float *)other->data + walk.offset[1] : &scalar;
      operation->row(walk.row, (const float *)self->data + walk.offset[0], a_step, b, b_step, alpha,
                     (float *)out->data + at);
      continue;
    }
    for (int64_t i = 0; i < walk.row; ++i) {
      const int64_t a = walk.offset[0] + i * a_step, b = walk.offset[1] + i * b_step;
      if (real) {
        const float right = other != NULL ? edge_load_float(other, b) : scalar;
        edge_store_float(out, at + i, operation->real(edge_load_float(self, a), right, alpha));
      } else {
        const int64_t right = other != NULL ? edge_load_int(other, b) : whole_scalar;
        edge_store_int(out, at + i, operation->integer(edge_load_int(self, a), right, whole_alpha));
      }
    }
  }
  return EDGE_OK;
}

/* self, other, [alpha,] out */
#define EDGE_ARITHMETIC_OP(symbol, name, operation, alpha)                                                            \
  static edge_status check_##symbol(edge_call *call) {                                                                \
    return check_arithmetic(call, alpha, alpha ? 3 : 2, operation.integer == NULL);                                   \
  }                                                                                                                   \
  static edge_status run_##symbol(edge_call *call) { return run_arithmetic(call, &operation, alpha, alpha ? 3 : 2); } \
  const edge_op edge_op_aten_##symbol = {"aten::" name, alpha ? 4 : 3, 1, check_##symbol, run_##symbol};

EDGE_ARITHMETIC_OP(add, "add.out", add, 2)
EDGE_ARITHMETIC_OP(add_scalar, "add.Scalar_out", add, 2)
EDGE_ARITHMETIC_OP(sub, "sub.out", sub, 2)
EDGE_ARITHMETIC_OP(sub_scalar, "sub.Scalar_out", sub, 2)
EDGE_ARITHMETIC_OP(mul, "mul.out", mul, 0)
EDGE_ARITHMETIC_OP(mul_scalar, "mul.Scalar_out", mul, 0)
EDGE_ARITHMETIC_OP(div, "div.out", division, 0)
EDGE_ARITHMETIC_OP(div_scalar, "div.Scalar_out", division, 0)
EDGE_ARITHMETIC_OP(minimum, "minimum.out", minimum, 0)
EDGE_ARITHMETIC_OP(maximum, "maximum.out", maximum, 0)
EDGE_ARITHMETIC_OP(pow, "pow.Tensor_Tensor_out", power, 0)

/* --- comparisons and logic: a bool tensor ---------------------------------------------------------------------- */

typedef enum relation { EQ, NE, LT, LE, GT, GE, AND, OR } relation;

#define EDGE_RELATE(a, b)                  \
  switch (kind) {                          \
    case EQ: return (a) == (b);            \
    case NE: return (a) != (b);            \
    case LT: return (a) < (b);             \
    case LE: return (a) <= (b);            \
    case GT: return (a) > (b);             \
    case GE: return (a) >= (b);            \
    case AND: return (a) != 0 && (b) != 0; \
    default: return (a) != 0 || (b) != 0;  \
  }
static bool relate_real(relation kind, float a, float b) { EDGE_RELATE(a, b) }
static bool relate_integer(relation kind, int64_t a, int64_t b) { EDGE_RELATE(a, b) }

static edge_status check_relation(edge_call *call) { return check_operands(call, 2, EDGE_TRUTH); }

static edge_status run_relation(edge_call *call, relation kind) {
  const edge_tensor *self = edge_tensor_at(call, 0), *out = edge_tensor_at(call, 2);
  const edge_value *right = call->args[1];
  const edge_tensor *other = right->kind == EDGE_TENSOR ? &right->as.tensor : NULL;
  const bool real = computes_float(call, 0);
  edge_walk walk;
  edge_walk_over(&walk, out->sizes, out->rank);
  edge_walk_broadcast(&walk, 0, self);
  if (other != NULL) edge_walk_broadcast(&walk, 1, other);
  const int64_t a_step = edge_walk_step(&walk, 0), b_step = edge_walk_step(&walk, 1);
  uint8_t *truth = out->data;
  for (; walk.more; edge_walk_next(&walk)) {
    for (int64_t i = 0; i < walk.row; ++i) {
      const int64_t a = walk.offset[0] + i * a_step, b = walk.offset[1] + i * b_step;
      if (real) {
        const float value = other != NULL ? edge_load_float(other, b) : (float)edge_real_at(call, 1);
        *truth++ = relate_real(kind, edge_load_float(self, a), value);
      } else {
        const int64_t value = other != NULL ? edge_load_int(other, b) : edge_whole(right);
        *truth++ = relate_integer(kind, edge_load_int(self, a), value);
      }
    }
  }
  return EDGE_OK;
}

#define EDGE_RELATION_OP(symbol, name, kind)                                            \
  static edge_status run_##symbol(edge_call *call) { return run_relation(call, kind); } \
  const edge_op edge_op_aten_##symbol = {"aten::" name, 3, 1, check_relation, run_##symbol};

EDGE_RELATION_OP(eq, "eq.Tensor_out", EQ)
EDGE_RELATION_OP(eq_scalar, "eq.Scalar_out", EQ)
EDGE_RELATION_OP(ne, "ne.Tensor_out", NE)
EDGE_RELATION_OP(ne_scalar, "ne.Scalar_out", NE)
EDGE_RELATION_OP(lt, "lt.Tensor_out", LT)
EDGE_RELATION_OP(lt_scalar, "lt.Scalar_out", LT)
EDGE_RELATION_OP(le, "le.Tensor_out", LE)
EDGE_RELATION_OP(le_scalar, "le.Scalar_out", LE)
EDGE_RELATION_OP(gt, "gt.Tensor_out", GT)
EDGE_RELATION_OP(gt_scalar, "gt.Scalar_out", GT)
EDGE_RELATION_OP(ge, "ge.Tensor_out", GE)
EDGE_RELATION_OP(ge_scalar, "ge.Scalar_out", GE)
EDGE_RELATION_OP(logical_and, "logical_and.out", AND)
EDGE_RELATION_OP(logical_or, "logical_or.out", OR)

/* aten::bitwise_and(self, other, out): of truths only, as `a & b` of two masks is written. */
static edge_status check_bitwise_and(edge_call *call) {
  const edge_tensor *ignored;
  EDGE_TRY(edge_take_tensor(call, 0, "self", EDGE_TRUTH, &ignored));
  EDGE_TRY(edge_take_tensor(call, 1, "other", EDGE_TRUTH, &ignored));
  return check_relation(call);
}

/* aten::logical_not(self, out) */
static edge_status check_logical_not(edge_call *call) {
  const edge_tensor *self;
  EDGE_TRY(edge_take_tensor(call, 0, "self", EDGE_NUMBER, &self));
  return edge_take_output(call, 1, "out", EDGE_TRUTH, self->sizes, self->rank);
}

static edge_status run_logical_not(edge_call *call) {
  const edge_tensor *self = edge_tensor_at(call, 0);
  uint8_t *out = edge_tensor_at(call, 1)->data;
  for (int64_t i = 0, n = edge_elements(self); i < n; ++i) {
    out[i] = edge_is_float(self) ? edge_load_float(self, i) == 0.0f : edge_load_int(self, i) == 0;
  }
  return EDGE_OK;
}

/* aten::bitwise_not(self, out): of truths only. */
static edge_status check_bitwise_not(edge_call *call) {
  const edge_tensor *ignored;
  EDGE_TRY(edge_take_tensor(call, 0, "self", EDGE_TRUTH, &ignored));
  return check_logical_not(call);
}

/* aten::where(condition, self, other, out) */
static edge_status check_where(edge_call *call) {
  const edge_tensor *condition, *self, *other;
  EDGE_TRY(edge_take_tensor(call, 0, "condition", EDGE_TRUTH | EDGE_BIT(EDGE_UINT8), &condition));
  EDGE_TRY(edge_take_tensor(call, 1, "self", EDGE_NUMBER, &self));
  EDGE_TRY(edge_take_tensor(call, 2, "other", EDGE_NUMBER, &other));
  int32_t sizes[EDGE_MAX_RANK];
  uint32_t rank;
  EDGE_TRY(edge_broadcast_shape(call, self->sizes, self->rank, other, sizes, &rank));
  EDGE_TRY(edge_broadcast_shape(call, sizes, rank, condition, sizes, &rank));
  /* A float chosen into an integer tensor would lose its fraction. */
  const uint32_t dtypes = edge_is_float(self) || edge_is_float(other) ? EDGE_F32 : EDGE_NUMBER;
  return edge_take_output(call, 3, "out", dtypes, sizes, rank);
}

static edge_status run_where(edge_call *call) {
  const edge_tensor *condition = edge_tensor_at(call, 0), *out = edge_tensor_at(call, 3);
  edge_walk walk;
  edge_walk_over(&walk, out->sizes, out->rank);
  for (uint32_t o = 0; o < 3; ++o) edge_walk_broadcast(&walk, o, edge_tensor_at(call, o));
  for (int64_t at = 0; walk.more; edge_walk_next(&walk)) {
    for (int64_t i = 0; i < walk.row; ++i, ++at) {
      const uint32_t chosen = edge_load_int(condition, walk.offset[0] + i * edge_walk_step(&walk, 0)) != 0 ? 1 : 2;
      const edge_tensor *from = edge_tensor_at(call, chosen);
      const int64_t index = walk.offset[chosen] + i * edge_walk_step(&walk, chosen);
      if (edge_is_float(from)) {
        edge_store_float(out, at, edge_load_float(from, index));
      } else {
        edge_store_int(out, at, edge_load_int(from, index));
      }
    }
  }
  return EDGE_OK;
}

const edge_op edge_op_aten_bitwise_and = {"aten::bitwise_and.Tensor_out", 3, 1, check_bitwise_and, run_logical_and};
const edge_op edge_op_aten_bitwise_not = {"aten::bitwise_not.out", 2, 1, check_bitwise_not, run_logical_not};
const edge_op edge_op_aten_logical_not = {"aten::logical_not.out", 2, 1, check_logical_not, run_logical_not};
const edge_op edge_op_aten_where = {"aten::where.self_out", 4, 1, check_where, run_where};
