/* Reading and validating the arguments of a call: every function either yields the argument or reports why not.
 *
 * Used by `check` only; `run` then reads call->args directly through the unchecked accessors at the end.
 */
#ifndef EDGE_ARGS_H
#define EDGE_ARGS_H

#include "op.h"

/* Returns from the enclosing function unless `expression` is EDGE_OK. */
#define EDGE_TRY(expression)                        \
  do {                                              \
    const edge_status try_status_ = (expression);   \
    if (try_status_ != EDGE_OK) return try_status_; \
  } while (0)

/* Sets of dtypes. */
#define EDGE_BIT(dtype) (1u << (dtype))
#define EDGE_F32 EDGE_BIT(EDGE_FLOAT32)
#define EDGE_I64 EDGE_BIT(EDGE_INT64)
#define EDGE_INDEX (EDGE_BIT(EDGE_INT64) | EDGE_BIT(EDGE_INT32))
#define EDGE_TRUTH EDGE_BIT(EDGE_BOOL)
#define EDGE_NUMBER (EDGE_F32 | EDGE_INDEX | EDGE_TRUTH)
#define EDGE_COPYABLE (EDGE_NUMBER | EDGE_BIT(EDGE_UINT8) | EDGE_BIT(EDGE_INT8) | EDGE_BIT(EDGE_INT16))

/* Tensors of up to 2^31 - 1 elements, so that products of two element counts fit 64 bits. */
#define EDGE_MAX_ELEMENTS INT64_C(0x7fffffff)

/* A tensor of one of `dtypes`. `name` is the schema's, for messages. */
edge_status edge_take_tensor(edge_call *call, uint32_t index, const char *name, uint32_t dtypes,
                             const edge_tensor **out);
/* The same, or NULL for a None. */
edge_status edge_take_optional_tensor(edge_call *call, uint32_t index, const char *name, uint32_t dtypes,
                                      const edge_tensor **out);
/* The checks of edge_take_tensor, for an entry of a tensor list. */
edge_status edge_validate_tensor(edge_call *call, const edge_tensor *tensor, const char *name, uint32_t dtypes,
                                 const edge_tensor **out);
edge_status edge_expect_shape(edge_call *call, const edge_tensor *tensor, const char *name, const int32_t *sizes,
                              uint32_t rank);
/* A tensor of exactly these sizes. */
edge_status edge_take_output(edge_call *call, uint32_t index, const char *name, uint32_t dtypes, const int32_t *sizes,
                             uint32_t rank);
edge_status edge_take_int(edge_call *call, uint32_t index, const char *name, int64_t low, int64_t high, int64_t *out);
edge_status edge_take_optional_int(edge_call *call, uint32_t index, const char *name, int64_t low, int64_t high,
                                   int64_t otherwise, int64_t *out);
edge_status edge_take_bool(edge_call *call, uint32_t index, const char *name, bool *out);
/* A Scalar: an int, a bool or a float. */
edge_status edge_take_real(edge_call *call, uint32_t index, const char *name, double *out);
/* A number that edge_float_at reads. Firmware takes no integers beyond 32 bits. */
edge_status edge_take_float(edge_call *call, uint32_t index, const char *name);
/* From `low` to `high` integers. A None is a list of none. */
edge_status edge_take_ints(edge_call *call, uint32_t index, const char *name, uint32_t low, uint32_t high,
                           const int64_t **out, uint32_t *count);
/* A dimension, negative counted from the end, normalised to 0 .. rank - 1 (a scalar's rank counts as 1). */
edge_status edge_take_dim(edge_call *call, uint32_t index, const char *name, uint32_t rank, uint32_t *out);
/* Reserves temporary memory; refuses what does not fit a size_t. */
edge_status edge_reserve(edge_call *call, uint64_t bytes);
/* Reserves memory for a constant in the kernels' layout; refuses what does not fit a size_t. */
edge_status edge_reserve_packed(edge_call *call, uint64_t bytes);
/* Rounds up to a whole number of cache lines, so that what follows starts at one and threads do not share any. */
static inline uint64_t edge_whole_lines(uint64_t bytes) {
  return (bytes + EDGE_PACK_ALIGN - 1) / EDGE_PACK_ALIGN * EDGE_PACK_ALIGN;
}

/* The call's threads where `nanoseconds` of work, as a fast core does it, are worth waking them for; else NULL. */
#ifdef EDGE_NO_THREADS
/* A macro: the arithmetic of doubles, software on microcontrollers, goes away in every build. */
#define edge_threads_for(call, nanoseconds) ((void)(call), (void)(nanoseconds), (edge_threads *)NULL)
#else
static inline edge_threads *edge_threads_for(const edge_call *call, double nanoseconds) {
  return nanoseconds >= 15000.0 ? call->threads : NULL;
}
#endif

/* "[2, 3, 4]"; truncated where it does not fit. Returns `text`. */
typedef struct edge_shape_text {
  char text[96];
} edge_shape_text;
const char *edge_shape_string(edge_shape_text *buffer, const int32_t *sizes, uint32_t rank);

bool edge_same_shape(const edge_tensor *a, const edge_tensor *b);

/* Unchecked: for `run`, after `check`. */
static inline const edge_tensor *edge_tensor_at(const edge_call *call, uint32_t index) {
  return &call->args[index]->as.tensor;
}
static inline const edge_tensor *edge_optional_tensor_at(const edge_call *call, uint32_t index) {
  return call->args[index]->kind == EDGE_NONE ? NULL : &call->args[index]->as.tensor;
}
static inline int64_t edge_int_at(const edge_call *call, uint32_t index) { return call->args[index]->as.integer; }
static inline bool edge_bool_at(const edge_call *call, uint32_t index) {
  const edge_value *value = call->args[index];
  return value->kind == EDGE_INT ? value->as.integer != 0 : value->as.boolean;
}
static inline double edge_real_at(const edge_call *call, uint32_t index) {
  const edge_value *value = call->args[index];
  if (value->kind == EDGE_INT) return (double)value->as.integer;
  return value->kind == EDGE_BOOLEAN ? (double)value->as.boolean : value->as.real;
}
#if defined(EDGE_BARE_METAL)
/* The same without software's arithmetic of doubles, for arguments that edge_take_float took. */
float edge_float_at(const edge_call *call, uint32_t index);
#else
static inline float edge_float_at(const edge_call *call, uint32_t index) { return (float)edge_real_at(call, index); }
#endif
static inline int64_t edge_elements(const edge_tensor *tensor) {
  int64_t elements = 1;
  for (uint32_t d = 0; d < tensor->rank; ++d) elements *= tensor->sizes[d];
  return elements;
}
static inline int64_t edge_product(const int32_t *sizes, uint32_t from, uint32_t to) {
  int64_t product = 1;
  for (uint32_t d = from; d < to; ++d) product *= sizes[d];
  return product;
}

/* See EDGE_TERSE in error.h. */
#if defined(EDGE_TERSE) && !defined(EDGE_TERSE_DEFINES)
#define edge_take_tensor(call, index, name, ...) edge_take_tensor(call, index, NULL, __VA_ARGS__)
#define edge_take_optional_tensor(call, index, name, ...) edge_take_optional_tensor(call, index, NULL, __VA_ARGS__)
#define edge_validate_tensor(call, tensor, name, ...) edge_validate_tensor(call, tensor, NULL, __VA_ARGS__)
#define edge_expect_shape(call, tensor, name, ...) edge_expect_shape(call, tensor, NULL, __VA_ARGS__)
#define edge_take_output(call, index, name, ...) edge_take_output(call, index, NULL, __VA_ARGS__)
#define edge_take_int(call, index, name, ...) edge_take_int(call, index, NULL, __VA_ARGS__)
#define edge_take_optional_int(call, index, name, ...) edge_take_optional_int(call, index, NULL, __VA_ARGS__)
#define edge_take_bool(call, index, name, out) edge_take_bool(call, index, NULL, out)
#define edge_take_real(call, index, name, out) edge_take_real(call, index, NULL, out)
#define edge_take_float(call, index, name) edge_take_float(call, index, NULL)
#define edge_take_ints(call, index, name, ...) edge_take_ints(call, index, NULL, __VA_ARGS__)
#define edge_take_dim(call, index, name, ...) edge_take_dim(call, index, NULL, __VA_ARGS__)
#endif

#endif
