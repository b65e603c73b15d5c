/* Walking tensors of different strides together: broadcasting, permuting, slicing and reducing are all this. */
#ifndef EDGE_WALK_H
#define EDGE_WALK_H

#include "ops/args.h"

#define EDGE_WALK_OPERANDS 3

/* Visits every index of `size` in row-major order, a row (the last dimension) at a time. For each operand, `offset` is
 * where the row begins and `step[operand][rank - 1]` how far apart its elements are; all counted in elements.
 *
 *   edge_walk walk;
 *   edge_walk_over(&walk, sizes, rank);
 *   edge_walk_broadcast(&walk, 0, tensor);
 *   for (; walk.more; edge_walk_next(&walk)) … walk.offset[0] …, walk.row elements
 */
typedef struct edge_walk {
  uint32_t rank; /* at least 1 */
  int64_t size[EDGE_MAX_RANK];
  int64_t step[EDGE_WALK_OPERANDS][EDGE_MAX_RANK];
  int64_t index[EDGE_MAX_RANK];
  int64_t offset[EDGE_WALK_OPERANDS];
  int64_t row;
  bool more;
} edge_walk;

void edge_walk_over(edge_walk *walk, const int32_t *sizes, uint32_t rank);
/* Operand `operand` is a contiguous tensor whose sizes are right-aligned with the walk's; a size of 1 is repeated. */
void edge_walk_broadcast(edge_walk *walk, uint32_t operand, const edge_tensor *tensor);
void edge_walk_next(edge_walk *walk);
/* The step of the row of an operand. */
static inline int64_t edge_walk_step(const edge_walk *walk, uint32_t operand) {
  return walk->step[operand][walk->rank - 1];
}

/* Copies the elements that the walk's operand 0 visits to consecutive places at `out`. */
void edge_copy_walked(edge_walk *walk, const void *in, void *out, size_t element_bytes);

/* The shape of `a` and `b` broadcast together; `sizes` may be a->sizes. */
edge_status edge_broadcast_shape(edge_call *call, const int32_t *a, uint32_t a_rank, const edge_tensor *b,
                                 int32_t sizes[EDGE_MAX_RANK], uint32_t *rank);

/* Elements as numbers, whatever their dtype (float32, int64, int32, int16, int8, uint8, bool). */
static inline bool edge_is_float(const edge_tensor *tensor) { return tensor->dtype == EDGE_FLOAT32; }
int64_t edge_load_int(const edge_tensor *tensor, int64_t at); /* not of float32 */
float edge_load_float(const edge_tensor *tensor, int64_t at);
/* Wraps where the dtype is narrower; a bool is `value != 0`. */
void edge_store_int(const edge_tensor *tensor, int64_t at, int64_t value);
/* To an integer dtype: towards zero, saturated, NaN to 0. */
void edge_store_float(const edge_tensor *tensor, int64_t at, float value);
/* A Scalar (int, bool or float) into every element; a float into integers as `edge_store_float`, but unrounded. */
void edge_fill(const edge_tensor *tensor, const edge_value *scalar);
/* A Scalar that is an int or a bool. */
static inline int64_t edge_whole(const edge_value *scalar) {
  return scalar->kind == EDGE_INT ? scalar->as.integer : scalar->as.boolean;
}

#endif
