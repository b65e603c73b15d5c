/* One-line errors for people. */
#include "error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

edge_status edge_set_error(edge_error *error, edge_status status, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(error->text, EDGE_ERROR_TEXT, format, arguments);
  va_end(arguments);
  error->status = status;
  return status;
}

edge_status edge_set_code(edge_error *error, edge_status status, const char *file, int line) {
  snprintf(error->text, EDGE_ERROR_TEXT, "%s:%d", file, line);
  error->status = status;
  return status;
}

void edge_locate_error(edge_error *error, uint32_t index) {
  char text[EDGE_ERROR_TEXT];
  memcpy(text, error->text, sizeof text);
  text[sizeof text - 1] = '\0';
  snprintf(error->text, EDGE_ERROR_TEXT, "instruction %lu, %.*s", (unsigned long)index, EDGE_ERROR_TEXT - 32, text);
}

edge_label edge_make_label(const uint8_t *bytes, size_t count) {
  edge_label label;
  size_t room = sizeof label.text - 1;
  size_t kept = count < room ? count : room;
  for (size_t i = 0; i < kept; ++i) label.text[i] = bytes[i] >= 0x20 && bytes[i] < 0x7f ? (char)bytes[i] : '?';
  label.text[kept] = '\0';
  if (count > room) memcpy(label.text + room - 3, "...", 3);
  return label;
}
