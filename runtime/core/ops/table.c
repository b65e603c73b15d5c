/* The table of operators, and how an operator reports what is wrong with a call. */
#include "ops/ops.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Firmware has the operators that its models need: the header, which firmware_bridge/operators.py writes, defines
 * EDGE_BUILT_OPERATORS as a part of EDGE_OPERATORS. */
#ifdef EDGE_OPERATORS_HEADER
#include EDGE_OPERATORS_HEADER
#else
#define EDGE_BUILT_OPERATORS EDGE_OPERATORS
#endif

#define EDGE_ADDRESS(symbol) &edge_op_##symbol,
static const edge_op *const operators[] = {EDGE_BUILT_OPERATORS(EDGE_ADDRESS)};
#undef EDGE_ADDRESS

const edge_op *const *edge_ops(size_t *count) {
  *count = sizeof operators / sizeof operators[0];
  return operators;
}

const edge_op *edge_find_op(const char *name, size_t name_length, const char *overload, size_t overload_length) {
  for (size_t i = 0; i < sizeof operators / sizeof operators[0]; ++i) {
    const char *full = operators[i]->name;
    const size_t length = strlen(full);
    if (overload_length == 0) {
      if (length == name_length && memcmp(full, name, name_length) == 0) return operators[i];
    } else if (name_length < length && length - name_length - 1 == overload_length && full[name_length] == '.' &&
               memcmp(full, name, name_length) == 0 && memcmp(full + name_length + 1, overload, overload_length) == 0) {
      return operators[i];
    }
  }
  return NULL;
}

edge_status edge_fail(edge_call *call, edge_status status, const char *format, ...) {
  if (call->error == NULL) return status;
  call->error->status = status;
  const int used = snprintf(call->error->text, EDGE_ERROR_TEXT, "%s: ", call->op->name);
  if (used < 0 || used >= EDGE_ERROR_TEXT) return status;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(call->error->text + used, (size_t)(EDGE_ERROR_TEXT - used), format, arguments);
  va_end(arguments);
  return status;
}

edge_status edge_fail_code(edge_call *call, edge_status status, const char *file, int line) {
  return edge_fail(call, status, "%s:%d", file, line);
}
