/* From a program to tables that run: what the passes over the file share.
 *
 * The survey validates and measures; the build fills the caller's block:
 *
 *   packed   constants in the layout that the kernels want    fixed after edge_prepare
 *   state    edge_model, value table, lists, calls            fixed after edge_prepare
 *   arena    planned buffers one after the other, then inputs and outputs that the file leaves to the caller
 *   scratch  one region that every operator may use while it runs
 *
 * Promises to the operators: an output is a tensor or a list of tensors, is not constant, and shares no byte with an
 * input or another output of the same call, unless the operator says that it may cover that input (edge_op.covers): the
 * two then have the same place, bytes, dtype and order. Every tensor has data, in row-major order but for arguments that
 * the operator takes with channels last.
 */
#ifndef EDGE_PLAN_H
#define EDGE_PLAN_H

#include "edge_core.h"
#include "op.h"
#include "program.h"

/* More than any operator or sane model has; they bound the survey's stack and the time that a hostile file can take. */
enum {
#ifdef EDGE_BARE_METAL
  /* The survey's stack, most of which these are, comes out of kilobytes. */
  EDGE_MAX_ARGUMENTS = 16,
  EDGE_MAX_LIST = 16,
#else
  EDGE_MAX_ARGUMENTS = 32,
  EDGE_MAX_LIST = 64,
#endif
  EDGE_MAX_PORTS = 64,
  EDGE_MAX_MEMORIES = 8,
  EDGE_MAX_VALUES = 1 << 18,
  EDGE_MAX_INSTRUCTIONS = 1 << 16
};

/* Arguments of executorch_prim::et_view. */
enum { EDGE_VIEW_SELF = 0, EDGE_VIEW_OUT = 2, EDGE_VIEW_ARGUMENTS = 3 };

struct edge_model {
  edge_value **values;
  edge_value **inputs;
  edge_value **outputs;
  edge_call *calls;
  uint32_t input_count;
  uint32_t output_count;
  uint32_t call_count;
};

typedef struct edge_survey {
  edge_program program;
  edge_options options; /* with the defaults filled in */
  size_t memory_bytes[EDGE_MAX_MEMORIES]; /* of each planned buffer, up to the end of its last tensor */
  uint32_t call_count;
  size_t value_bytes; /* of all values, without the pointers to them */
  edge_requirements need;
} edge_survey;

edge_status edge_run_survey(edge_survey *survey, const void *bytes, size_t size, const edge_options *options,
                            edge_error *error);

/* Whether the block has a copy of a value that the file holds. */
bool edge_is_copied(const edge_survey *survey, const edge_value *value);

/* What a value takes in a model: see edge_core.h. */
size_t edge_value_bytes(const edge_value *value);

/* Rounds up to 16 bytes and adds; false where that overflows. */
bool edge_add_bytes(size_t *total, uint64_t bytes);
edge_status edge_too_large(const edge_program *program);

/* Hands out 16-byte aligned pieces of a region. */
typedef struct edge_pool {
  uint8_t *base;
  size_t size;
  size_t used;
} edge_pool;

/* NULL where it does not fit. */
void *edge_take(edge_pool *pool, size_t count, size_t width);

/* Room for the lists of one call. */
#ifdef EDGE_BARE_METAL
#define EDGE_LIST_BYTES 576 /* seven tensors, say */
#else
#define EDGE_LIST_BYTES (EDGE_MAX_LIST * (sizeof(edge_value) + sizeof(edge_value *)) + 1024)
#endif

/* Reads a value; a list's elements go to `pool`. `table`: the model's values, which the entries of tensor lists then
 * are; NULL: the entries are built in `pool`. */
edge_status edge_load_value(const edge_program *program, uint32_t index, edge_value *const *table, edge_pool *pool,
                            edge_stored_value *stored);

/* Whether `value` is among the first `count` value indices of `ports`. */
bool edge_lists_value(const edge_program *program, const fb_vector *ports, uint32_t count, uint32_t value);

/* Whether the output of a call lies on its tensor argument `argument` as the operator allows it. */
bool edge_is_covered(const edge_call *call, uint32_t argument);

/* NULL if the core does not have it. */
const edge_op *edge_find_operator(const edge_program *program, const edge_stored_operator *stored);

/* Reads instruction `index` and finds its operator: NULL in `op` for a view. */
edge_status edge_open_call(const edge_program *program, uint32_t index, edge_stored_call *call, const edge_op **op);

/* Tensors in an argument: itself, or the entries of a list. */
uint32_t edge_tensor_count(const edge_value *value);
/* `index` < edge_tensor_count(value). NULL for an entry that is None. */
const edge_tensor *edge_tensor_at(const edge_value *value, uint32_t index);

/* Puts the channels of intermediate images last where all operators that meet them take that: layout.c. */
void edge_choose_layouts(const edge_program *program, edge_model *model);

/* edge_run of the first `count` calls. */
edge_status edge_run_calls(edge_model *model, uint32_t count, edge_trace trace, void *user, edge_error *error);

/* Checks what the operators are promised about the kinds of outputs, then lets the operator check its arguments. */
edge_status edge_check_call(edge_call *call, uint32_t index);

#endif
