/* Reads a FlatBuffer that nobody vouches for (https://flatbuffers.dev/internals): no generated code, no recursion,
 * no pointer into the bytes before its bounds and alignment were checked.
 *
 * Every function returns false and fills reader->error when the bytes do not hold what they should. A table or vector
 * handed out has been checked against the buffer once; the accessors then check against the table or vector alone.
 */
#ifndef EDGE_FLATBUFFER_H
#define EDGE_FLATBUFFER_H

#include "edge_core.h"

typedef struct fb_reader {
  const uint8_t *bytes;
  uint32_t size; /* at most INT32_MAX: offsets inside a FlatBuffer are 32 bits wide */
  edge_error *error;
} fb_reader;

typedef struct fb_table {
  uint32_t at;          /* position of the table */
  uint32_t bytes;       /* of the table, its first four included */
  uint32_t fields_at;   /* position of the field offsets in its vtable */
  uint32_t field_count; /* fields that the writer knew */
} fb_table;

/* count == 0 where the field is absent. */
typedef struct fb_vector {
  uint32_t at; /* position of the first element */
  uint32_t count;
} fb_vector;

bool fb_root(const fb_reader *reader, fb_table *table);

/* Scalars: `value` keeps its content, the schema's default, where the field is absent. `what` names it in an error. */
bool fb_u8(const fb_reader *reader, const fb_table *table, uint32_t field, const char *what, uint8_t *value);
bool fb_u32(const fb_reader *reader, const fb_table *table, uint32_t field, const char *what, uint32_t *value);
bool fb_u64(const fb_reader *reader, const fb_table *table, uint32_t field, const char *what, uint64_t *value);

/* `present` is false, and `child` untouched, where the field is absent. */
bool fb_child(const fb_reader *reader, const fb_table *table, uint32_t field, const char *what, fb_table *child,
              bool *present);

/* `width`: bytes of an element (4 for a vector of tables). */
bool fb_list(const fb_reader *reader, const fb_table *table, uint32_t field, uint32_t width, const char *what,
             fb_vector *list);

/* A string's bytes, its closing NUL checked and not counted. */
bool fb_string(const fb_reader *reader, const fb_table *table, uint32_t field, const char *what, fb_vector *string);

/* Element `index` < list->count of a vector of tables. */
bool fb_list_table(const fb_reader *reader, const fb_vector *list, uint32_t index, const char *what, fb_table *table);

/* Element `index` < list->count of a vector made with that width. */
uint32_t fb_list_u32(const fb_reader *reader, const fb_vector *list, uint32_t index);
uint64_t fb_list_u64(const fb_reader *reader, const fb_vector *list, uint32_t index);

/* See EDGE_TERSE in error.h. */
#if defined(EDGE_TERSE) && !defined(EDGE_TERSE_DEFINES)
#define fb_u8(reader, table, field, what, value) fb_u8(reader, table, field, NULL, value)
#define fb_u32(reader, table, field, what, value) fb_u32(reader, table, field, NULL, value)
#define fb_u64(reader, table, field, what, value) fb_u64(reader, table, field, NULL, value)
#define fb_child(reader, table, field, what, child, present) fb_child(reader, table, field, NULL, child, present)
#define fb_list(reader, table, field, width, what, list) fb_list(reader, table, field, width, NULL, list)
#define fb_string(reader, table, field, what, string) fb_string(reader, table, field, NULL, string)
#define fb_list_table(reader, list, index, what, table) fb_list_table(reader, list, index, NULL, table)
#endif

#endif
