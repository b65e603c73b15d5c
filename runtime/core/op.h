/* What an operator is to the core: a name, a check made once at load, and a run.
 *
 * The same table serves the core (plan.c), the Python binding's run_op, and the ExecuTorch op library
 * (op_library.cpp), so an operator is written once and knows nothing of who calls it.
 */
#ifndef EDGE_OP_H
#define EDGE_OP_H

#include "edge_core.h"
#include "kernels/kernels.h"
#include "threads.h"

#ifdef __cplusplus
extern "C" {
#endif

struct edge_op;

/* One instruction: an operator bound to its arguments (inputs first, then outputs, as in ExecuTorch). */
typedef struct edge_call {
  const struct edge_op *op;
  edge_value **args;
  uint32_t arg_count;
  /* Set by the caller before `check`. */
  const edge_kernels *kernels;
  edge_threads *threads; /* NULL: the calling thread alone */
  edge_error *error;
  /* Set by `check`, read by the planner. */
  size_t scratch_bytes;
  size_t packed_bytes; /* of constants in the layout that the kernels want; a multiple of EDGE_PACK_ALIGN */
  uint64_t macs;
  /* Set by the caller before `run`; 16-byte aligned, `scratch_bytes` long. */
  void *scratch;
  /* Set by the caller before `pack`, at a multiple of EDGE_PACK_ALIGN and `packed_bytes` long; it may stay NULL, and
   * then the operator reads the constants as they are, more slowly. */
  void *packed;
} edge_call;

typedef struct edge_op {
  const char *name;   /* with namespace and overload: "edge::ternary_linear.out", "aten::add.out" */
  uint8_t arg_count;  /* inputs + outputs; ExecuTorch repeats the returned outputs behind them, which is ignored */
  uint8_t out_count;  /* the last `out_count` of `arg_count` are outputs: tensors or lists of them, never constant */
  /* Validates kinds, dtypes, ranks, shapes, ranges (everything that `run` relies on) without reading tensor data;
   * fills scratch_bytes and macs. Tensor data pointers may be NULL here. */
  edge_status (*check)(edge_call *call);
  /* May fail only for values inside tensors (an embedding index out of range). */
  edge_status (*run)(edge_call *call);
  /* Writes call->packed from constant arguments, once, between `check` and the first `run`; NULL for operators whose
   * packed_bytes stays 0. */
  void (*pack)(edge_call *call);
  /* Bit i: tensor argument i may have its channels last, whatever the others have. */
  uint32_t channels_last;
  /* Bit i: the output (the operator has one) may lie on tensor argument i, byte for byte: what it reads of it, it has
   * read before it writes there. */
  uint32_t covers;
  /* Two arguments (neither is 0) that must have the same order, if both are tensors; or 0, 0. */
  uint8_t alike[2];
} edge_op;

/* Index of the first output among the arguments. */
static inline uint32_t edge_first_output(const edge_op *op) { return (uint32_t)op->arg_count - op->out_count; }

/* NULL if there is no such operator. `overload` may be empty. Neither need be NUL-terminated. */
const edge_op *edge_find_op(const char *name, size_t name_length, const char *overload, size_t overload_length);
/* The whole table, for listings. */
const edge_op *const *edge_ops(size_t *count);

/* Writes "<op>: <text>" to call->error and returns `status`. printf-style. */
edge_status edge_fail(edge_call *call, edge_status status, const char *format, ...);
/* The same for firmware: "<op>: <file>:<line>". */
edge_status edge_fail_code(edge_call *call, edge_status status, const char *file, int line);

#ifdef __cplusplus
}
#endif
/* See EDGE_TERSE in error.h. */
#ifdef EDGE_TERSE
#define edge_fail(call, status, ...) edge_fail_code((call), (status), __FILE_NAME__, __LINE__)
#endif

#endif
