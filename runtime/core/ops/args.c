/* Validation of arguments; see args.h. */
#define EDGE_TERSE_DEFINES
#include "ops/args.h"

#include <stdio.h>
#include <string.h>

const char *edge_shape_string(edge_shape_text *buffer, const int32_t *sizes, uint32_t rank) {
  size_t used = 0;
  buffer->text[used++] = '[';
  for (uint32_t d = 0; d < rank && used + 16 < sizeof buffer->text; ++d) {
    const int n = snprintf(buffer->text + used, sizeof buffer->text - used, d ? ", %ld" : "%ld", (long)sizes[d]);
    if (n > 0) used += (size_t)n;
  }
  buffer->text[used++] = ']';
  buffer->text[used] = '\0';
  return buffer->text;
}

bool edge_same_shape(const edge_tensor *a, const edge_tensor *b) {
  return a->rank == b->rank && memcmp(a->sizes, b->sizes, a->rank * sizeof a->sizes[0]) == 0;
}

static const char *kind_name(int kind) {
  static const char *const names[] = {"None",     "a tensor", "an int",     "a bool",    "a float",
                                      "an int[]", "a string", "a tensor[]", "a float[]", "a bool[]"};
  return kind >= 0 && kind < (int)(sizeof names / sizeof names[0]) ? names[kind] : "unknown";
}

/* The argument, or NULL after reporting that the call has too few. */
static const edge_value *argument(edge_call *call, uint32_t index, const char *name) {
  if (index < call->arg_count && call->args[index] != NULL) return call->args[index];
  edge_fail(call, EDGE_BAD_ARGUMENT, "argument %u (%s) is missing: %u given, %u wanted", (unsigned)index, name,
            (unsigned)call->arg_count, (unsigned)call->op->arg_count);
  return NULL;
}

static edge_status wrong_kind(edge_call *call, const edge_value *value, const char *name, const char *wanted) {
  return edge_fail(call, EDGE_BAD_ARGUMENT, "%s is %s, not %s", name, kind_name(value->kind), wanted);
}

edge_status edge_take_tensor(edge_call *call, uint32_t index, const char *name, uint32_t dtypes,
                             const edge_tensor **out) {
  const edge_value *value = argument(call, index, name);
  if (value == NULL) return EDGE_BAD_ARGUMENT;
  if (value->kind != EDGE_TENSOR) return wrong_kind(call, value, name, "a tensor");
  return edge_validate_tensor(call, &value->as.tensor, name, dtypes, out);
}

edge_status edge_validate_tensor(edge_call *call, const edge_tensor *tensor, const char *name, uint32_t dtypes,
                                 const edge_tensor **out) {
  if (tensor->dtype >= 32 || (dtypes & EDGE_BIT(tensor->dtype)) == 0) {
    const char *dtype = edge_dtype_name(tensor->dtype);
    return edge_fail(call, EDGE_UNSUPPORTED, "%s is %s, which this operator does not take", name,
                     dtype ? dtype : "of an unknown dtype");
  }
  if (tensor->rank > EDGE_MAX_RANK) {
    return edge_fail(call, EDGE_UNSUPPORTED, "%s has %u dimensions, at most %d are supported", name,
                     (unsigned)tensor->rank, EDGE_MAX_RANK);
  }
  int64_t elements = 1;
  for (uint32_t d = 0; d < tensor->rank; ++d) {
    if (tensor->sizes[d] < 0) {
      return edge_fail(call, EDGE_BAD_ARGUMENT, "%s has a negative size in dimension %u", name, (unsigned)d);
    }
    /* Sizes after a zero still bound loops, so they count as at least one. */
    elements *= tensor->sizes[d] > 0 ? tensor->sizes[d] : 1;
    if (elements > EDGE_MAX_ELEMENTS) return edge_fail(call, EDGE_UNSUPPORTED, "%s has 2^31 elements or more", name);
  }
  *out = tensor;
  return EDGE_OK;
}

edge_status edge_take_optional_tensor(edge_call *call, uint32_t index, const char *name, uint32_t dtypes,
                                      const edge_tensor **out) {
  const edge_value *value = argument(call, index, name);
  if (value == NULL) return EDGE_BAD_ARGUMENT;
  *out = NULL;
  return value->kind == EDGE_NONE ? EDGE_OK : edge_take_tensor(call, index, name, dtypes, out);
}

edge_status edge_take_output(edge_call *call, uint32_t index, const char *name, uint32_t dtypes, const int32_t *sizes,
                             uint32_t rank) {
  const edge_tensor *out;
  EDGE_TRY(edge_take_tensor(call, index, name, dtypes, &out));
  return edge_expect_shape(call, out, name, sizes, rank);
}

edge_status edge_expect_shape(edge_call *call, const edge_tensor *tensor, const char *name, const int32_t *sizes,
                              uint32_t rank) {
  if (tensor->rank == rank && memcmp(tensor->sizes, sizes, rank * sizeof sizes[0]) == 0) return EDGE_OK;
  edge_shape_text given, wanted;
  return edge_fail(call, EDGE_BAD_ARGUMENT, "%s has shape %s, expected %s", name,
                   edge_shape_string(&given, tensor->sizes, tensor->rank), edge_shape_string(&wanted, sizes, rank));
}

edge_status edge_take_int(edge_call *call, uint32_t index, const char *name, int64_t low, int64_t high, int64_t *out) {
  const edge_value *value = argument(call, index, name);
  if (value == NULL) return EDGE_BAD_ARGUMENT;
  if (value->kind != EDGE_INT) return wrong_kind(call, value, name, "an int");
  if (value->as.integer < low || value->as.integer > high) {
    return edge_fail(call, EDGE_BAD_ARGUMENT, "%s is %lld, expected %lld to %lld", name, (long long)value->as.integer,
                     (long long)low, (long long)high);
  }
  *out = value->as.integer;
  return EDGE_OK;
}

edge_status edge_take_optional_int(edge_call *call, uint32_t index, const char *name, int64_t low, int64_t high,
                                   int64_t otherwise, int64_t *out) {
  const edge_value *value = argument(call, index, name);
  if (value == NULL) return EDGE_BAD_ARGUMENT;
  *out = otherwise;
  return value->kind == EDGE_NONE ? EDGE_OK : edge_take_int(call, index, name, low, high, out);
}

edge_status edge_take_bool(edge_call *call, uint32_t index, const char *name, bool *out) {
  const edge_value *value = argument(call, index, name);
  if (value == NULL) return EDGE_BAD_ARGUMENT;
  if (value->kind != EDGE_BOOLEAN) return wrong_kind(call, value, name, "a bool");
  *out = value->as.boolean;
  return EDGE_OK;
}

edge_status edge_take_float(edge_call *call, uint32_t index, const char *name) {
  const edge_value *value = argument(call, index, name);
  if (value == NULL) return EDGE_BAD_ARGUMENT;
  if (value->kind != EDGE_DOUBLE && value->kind != EDGE_INT && value->kind != EDGE_BOOLEAN) {
    return wrong_kind(call, value, name, "a number");
  }
#if defined(EDGE_BARE_METAL)
  if (value->kind == EDGE_INT && value->as.integer != (int32_t)value->as.integer) {
    return edge_fail(call, EDGE_UNSUPPORTED, "%s is an integer of more than 32 bits", name);
  }
#endif
  return EDGE_OK;
}

#if defined(EDGE_BARE_METAL)
/* A double from its bits, rounded to nearest, ties to even. */
static float narrowed(uint64_t bits) {
  const uint32_t high = (uint32_t)(bits >> 32), low = (uint32_t)bits, wide = high >> 20 & 0x7FF;
  const int32_t exponent = (int32_t)wide - 1023 + 127;
  /* 24 bits of the mantissa, six more, the last of which is also of all behind it. */
  const uint32_t mantissa = 1u << 29 | (high & 0xFFFFF) << 9 | low >> 23 | ((low & 0x7FFFFF) != 0);
  uint32_t narrow = 0x7F800000; /* infinity */
  if (wide == 0x7FF && ((high & 0xFFFFF) | low) != 0) {
    narrow = 0x7FC00000;
  } else if (exponent < 255) {
    const uint32_t shift = exponent > 0 ? 6 : exponent < -24 ? 31 : (uint32_t)(7 - exponent);
    const uint32_t rest = mantissa & ((1u << shift) - 1), half = 1u << (shift - 1);
    narrow = (exponent > 0 ? (uint32_t)(exponent - 1) << 23 : 0) + (mantissa >> shift);
    if (rest > half || (rest == half && narrow % 2 == 1)) ++narrow;
  }
  narrow |= high & 0x80000000;
  float value;
  memcpy(&value, &narrow, sizeof value);
  return value;
}

float edge_float_at(const edge_call *call, uint32_t index) {
  const edge_value *value = call->args[index];
  if (value->kind == EDGE_INT) return (float)(int32_t)value->as.integer;
  if (value->kind == EDGE_BOOLEAN) return (float)value->as.boolean;
  uint64_t bits;
  memcpy(&bits, &value->as.real, sizeof bits);
  return narrowed(bits);
}
#endif

edge_status edge_take_real(edge_call *call, uint32_t index, const char *name, double *out) {
  const edge_value *value = argument(call, index, name);
  if (value == NULL) return EDGE_BAD_ARGUMENT;
  if (value->kind != EDGE_DOUBLE && value->kind != EDGE_INT && value->kind != EDGE_BOOLEAN) {
    return wrong_kind(call, value, name, "a number");
  }
  *out = edge_real_at(call, index);
  return EDGE_OK;
}

edge_status edge_take_ints(edge_call *call, uint32_t index, const char *name, uint32_t low, uint32_t high,
                           const int64_t **out, uint32_t *count) {
  const edge_value *value = argument(call, index, name);
  if (value == NULL) return EDGE_BAD_ARGUMENT;
  if (value->kind != EDGE_INT_LIST && value->kind != EDGE_NONE) return wrong_kind(call, value, name, "an int[]");
  *count = value->kind == EDGE_NONE ? 0 : value->count;
  *out = *count ? value->as.integers : NULL;
  if (*count < low || *count > high) {
    return edge_fail(call, EDGE_BAD_ARGUMENT, "%s has %u entries, expected %u to %u", name, (unsigned)*count,
                     (unsigned)low, (unsigned)high);
  }
  return EDGE_OK;
}

edge_status edge_take_dim(edge_call *call, uint32_t index, const char *name, uint32_t rank, uint32_t *out) {
  const int64_t span = rank > 0 ? rank : 1;
  int64_t dim = 0;
  EDGE_TRY(edge_take_int(call, index, name, -span, span - 1, &dim));
  *out = (uint32_t)(dim < 0 ? dim + span : dim);
  return EDGE_OK;
}

static edge_status reserve(edge_call *call, uint64_t bytes, const char *what, size_t *reserved) {
  if (bytes > (uint64_t)(SIZE_MAX / 2)) {
    return edge_fail(call, EDGE_UNSUPPORTED, "needs %llu bytes of %s memory", (unsigned long long)bytes, what);
  }
  *reserved = (size_t)bytes;
  return EDGE_OK;
}

edge_status edge_reserve(edge_call *call, uint64_t bytes) {
  return reserve(call, bytes, "temporary", &call->scratch_bytes);
}

edge_status edge_reserve_packed(edge_call *call, uint64_t bytes) {
  return reserve(call, edge_whole_lines(bytes), "packed", &call->packed_bytes);
}
