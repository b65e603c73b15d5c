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

#endif
