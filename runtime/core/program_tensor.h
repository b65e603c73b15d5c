/* Tensors of a program file, and what program.c shares with their reader. */
#ifndef EDGE_PROGRAM_TENSOR_H
#define EDGE_PROGRAM_TENSOR_H

#include "program.h"

/* Fields of SubsegmentOffsets. */
enum { SUBSEGMENT_SEGMENT = 0, SUBSEGMENT_OFFSETS = 1 };

/* Reads the tensor in `table`, the body of value `index`, into `stored`, which is zero. */
edge_status edge_read_tensor(const edge_program *program, uint32_t index, const fb_table *table,
                             edge_stored_value *stored);

/* The status of an error that a reader function has just reported. */
edge_status edge_fault(const edge_program *program);
edge_label edge_string_label(const edge_program *program, const fb_vector *string);
/* Reports "value <index>: <text>". */
edge_status edge_refuse_value(const edge_program *program, edge_status status, uint32_t index, const char *text);

/* See EDGE_TERSE in error.h. */
#ifdef EDGE_TERSE
#define edge_refuse_value(program, status, index, text) edge_set_error((program)->reader.error, (status))
#endif

#endif
