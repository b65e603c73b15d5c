/* What an ExecuTorch program file says: its values, instructions and operators, each checked as it is read.
 *
 * Layout of the file: extended header at byte 8 ("eh00"), a FlatBuffer of schema ET12 (program.fbs), then segments
 * of raw bytes. Nothing is copied: a program is a handful of positions in the caller's bytes.
 */
#ifndef EDGE_PROGRAM_H
#define EDGE_PROGRAM_H

#include "edge_core.h"
#include "error.h"
#include "flatbuffer.h"

typedef struct edge_segment {
  const uint8_t *bytes;
  uint64_t size;
} edge_segment;

typedef struct edge_program {
  fb_reader reader;      /* over the FlatBuffer alone */
  edge_segment segments; /* everything that follows it */
  fb_vector segment_table;
  bool constants_in_segment;
  uint32_t constant_segment; /* index of the segment that holds the constants, where constants_in_segment */
  fb_vector constant_offsets;
  fb_vector constant_buffers; /* older files: constants inside the FlatBuffer */
  fb_vector mutable_segments;
  fb_vector values;
  fb_vector inputs;
  fb_vector outputs;
  fb_vector operators;
  fb_vector delegates;
  fb_vector memories; /* bytes of each planned buffer; the first is unused */
  fb_vector instructions;
} edge_program;

/* A value as stored. Of a tensor, `value.as.tensor.data` is set only if it is a constant. Of a list, only
 * `value.count` is set and `items` holds the elements: value indices (int list, tensor list), doubles or booleans. */
typedef struct edge_stored_value {
  edge_value value;
  fb_vector items;
  uint32_t memory;        /* planned buffer of a mutable tensor; 0: none planned */
  uint64_t offset;        /* in that buffer */
  const uint8_t *initial; /* first contents of a mutable tensor, or NULL */
} edge_stored_value;

typedef struct edge_stored_call {
  uint32_t operator_index;
  fb_vector args; /* value indices */
} edge_stored_call;

typedef struct edge_stored_operator {
  fb_vector name;
  fb_vector overload;
  edge_label label; /* "aten::add.out" */
} edge_stored_operator;

/* Opens the method "forward", or the only one. `error` must outlive `program`. */
edge_status edge_open_program(edge_program *program, const void *bytes, size_t size, edge_error *error);

/* `index` may be anything; the rest of the functions check it too. */
edge_status edge_read_value(const edge_program *program, uint32_t index, edge_stored_value *stored);
edge_status edge_read_call(const edge_program *program, uint32_t index, edge_stored_call *call);
edge_status edge_read_operator(const edge_program *program, uint32_t index, edge_stored_operator *stored);

/* Whether an operator is executorch_prim::et_view, which only renames memory and is resolved by the planner. */
bool edge_is_view(const edge_program *program, const edge_stored_operator *stored);

#endif
