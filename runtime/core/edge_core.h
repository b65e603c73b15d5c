/* edge core: executes ExecuTorch .pte programs without ExecuTorch, PyTorch or a heap.
 *
 * One method ("forward"), static shapes, memory planned by ExecuTorch at export time. The caller owns the
 * program's bytes and one block of memory; the core keeps no globals and is re-entrant across models.
 *
 *   edge_requirements need;
 *   edge_measure(bytes, size, NULL, &need, &error);             validates every offset, size and operator once
 *   edge_prepare(bytes, size, NULL, block, need.total_bytes, &model, &error);
 *   memcpy(edge_input(model, 0)->data, ...);  edge_run(model, NULL, NULL, &error);  edge_output(model, 0)->data
 */
#ifndef EDGE_CORE_H
#define EDGE_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EDGE_MAX_RANK 8
#define EDGE_ERROR_TEXT 240

typedef enum edge_status {
  EDGE_OK = 0,
  EDGE_BAD_FILE,     /* truncated, malformed, or an offset, size or index out of bounds */
  EDGE_UNSUPPORTED,  /* an operator, delegate, dtype or shape that the core does not run */
  EDGE_BAD_ARGUMENT, /* the caller's fault: wrong index, block too small, value out of range at run time */
} edge_status;

/* Text is one line without a trailing newline, already fit to show to a person. */
typedef struct edge_error {
  edge_status status;
  char text[EDGE_ERROR_TEXT];
} edge_error;

/* Cache lines: repacked weights, and so the block of memory that a model lives in, start at a multiple of this. */
#define EDGE_PACK_ALIGN 64

/* Numbered as ScalarType in ExecuTorch's schema. */
typedef enum edge_dtype {
  EDGE_UINT8 = 0,
  EDGE_INT8 = 1,
  EDGE_INT16 = 2,
  EDGE_INT32 = 3,
  EDGE_INT64 = 4,
  EDGE_FLOAT32 = 6,
  EDGE_FLOAT64 = 7,
  EDGE_BOOL = 11,
} edge_dtype;

/* Contiguous, row-major; or, within a program, of rank 4 with the channels (dimension 1) last. `constant` tensors lie in
 * the program's bytes and are never written. */
typedef struct edge_tensor {
  void *data;
  size_t bytes;
  uint8_t rank;
  uint8_t dtype; /* edge_dtype */
  bool constant;
  bool channels_last; /* only where every operator that meets the tensor says that it takes that */
  bool written;       /* within a program: by an instruction under this name, or by the caller */
  /* As the program has them, whatever the order of the data. A model has memory for the first `rank` of them only. */
  int32_t sizes[EDGE_MAX_RANK];
} edge_tensor;

typedef enum edge_kind {
  EDGE_NONE = 0,
  EDGE_TENSOR,
  EDGE_INT,
  EDGE_BOOLEAN,
  EDGE_DOUBLE,
  EDGE_INT_LIST,
  EDGE_STRING,
  EDGE_TENSOR_LIST, /* also optional tensor lists: an entry may be of kind EDGE_NONE */
  EDGE_DOUBLE_LIST,
  EDGE_BOOL_LIST,
} edge_kind;

/* A model has memory for as much of the union as the kind takes. */
typedef struct edge_value {
  uint8_t kind; /* edge_kind */
  uint32_t count; /* elements of a list, bytes of a string */
  union {
    edge_tensor tensor;
    int64_t integer;
    bool boolean;
    double real;
    const int64_t *integers;
    const double *reals;
    const bool *booleans;
    const char *string; /* not NUL-terminated */
    struct edge_value *const *tensors;
  } as;
} edge_value;

typedef struct edge_requirements {
  size_t total_bytes;   /* what edge_prepare wants, at a multiple of EDGE_PACK_ALIGN; the sum of the rest */
  size_t state_bytes;   /* value and instruction tables */
  size_t arena_bytes;   /* activations, as planned at export */
  size_t scratch_bytes; /* the largest operator's temporary memory */
  size_t packed_bytes;  /* weights repacked for this CPU (0 for the scalar kernels) */
  uint64_t macs;        /* multiply-accumulates of one run */
} edge_requirements;

typedef struct edge_model edge_model;
struct edge_call;
struct edge_kernels;
struct edge_threads;

/* How a model runs: the results do not depend on it. */
typedef struct edge_options {
  const struct edge_kernels *kernels; /* kernels/kernels.h; NULL: the best for this CPU */
  struct edge_threads *threads;       /* threads.h; NULL: the calling thread alone */
  /* Called by edge_prepare for the constants of an instruction whose weights it has just repacked, as far as they lie
   * in the file: what keeps the bytes in memory may let go of them, as long as they can still be read. NULL: nobody
   * wants to know. */
  void (*repacked)(void *user, const void *constant, size_t bytes);
  void *user;
  /* Constants of at most so many bytes are copied into the block: a mapped file would keep pages in memory for each. */
  size_t copied_constant_bytes;
} edge_options;

/* Called after each instruction. `call` is valid only during the call-back. */
typedef void (*edge_trace)(void *user, size_t instruction, const struct edge_call *call);

/* `options` may be NULL, and must be the same for both calls; threads must outlive the model. */
edge_status edge_measure(const void *program, size_t size, const edge_options *options, edge_requirements *need,
                         edge_error *error);
edge_status edge_prepare(const void *program, size_t size, const edge_options *options, void *block,
                         size_t block_bytes, edge_model **model, edge_error *error);
size_t edge_input_count(const edge_model *model);
size_t edge_output_count(const edge_model *model);
edge_tensor *edge_input(edge_model *model, size_t index);
const edge_tensor *edge_output(const edge_model *model, size_t index);
size_t edge_instruction_count(const edge_model *model);
const struct edge_call *edge_instruction(const edge_model *model, size_t index);
edge_status edge_run(edge_model *model, edge_trace trace, void *user, edge_error *error);

const char *edge_dtype_name(int dtype); /* "float32", or NULL if the core does not know it */
size_t edge_dtype_bytes(int dtype);     /* 0 if the core does not know it */

#ifdef __cplusplus
}
#endif
#endif
