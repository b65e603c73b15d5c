/* One-line errors for people. */
#ifndef EDGE_ERROR_H
#define EDGE_ERROR_H

#include "edge_core.h"

/* Fills `error` and returns `status`. printf-style; what does not fit is cut off. */
#if defined(__GNUC__)
__attribute__((format(printf, 3, 4)))
#endif
edge_status edge_set_error(edge_error *error, edge_status status, const char *format, ...);

/* Puts "instruction <index>, " before the text that is there. */
void edge_locate_error(edge_error *error, uint32_t index);

/* A name out of a file for use in an error: cut to fit, anything but printable ASCII replaced by '?'. */
typedef struct edge_label {
  char text[64];
} edge_label;

edge_label edge_make_label(const uint8_t *bytes, size_t count);

/* Firmware. The sentences of the core take 12 KB and more of flash, so in files that are built with EDGE_TERSE a refusal
 * names a line of the source instead: "instruction 3, edge::conv2d_int8.out: quantized_conv.c:57". Who builds or sends a
 * program has checked it with the same core on a larger machine, and has read the sentence there.
 *
 * (edge_set_error)(...) says a sentence in firmware too. Below and in the headers of functions that take names of fields
 * or arguments, which are for sentences alone, macros drop them; files that define such functions define
 * EDGE_TERSE_DEFINES. */
edge_status edge_set_code(edge_error *error, edge_status status, const char *file, int line);
#ifdef EDGE_TERSE
#define edge_set_error(error, status, ...) edge_set_code((error), (status), __FILE_NAME__, __LINE__)
#endif

#endif
