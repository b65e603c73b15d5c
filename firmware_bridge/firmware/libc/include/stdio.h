/* The firmware's own C library: stdio.c. There are no streams. */
#ifndef EDGE_LIBC_STDIO_H
#define EDGE_LIBC_STDIO_H

#include <stdarg.h>
#include <stddef.h>

/* %d %i %u %x %c %s %% with the lengths h, l, ll and z, the flag 0, a width, and a precision of %s. */
int vsnprintf(char *text, size_t room, const char *format, va_list arguments);
int snprintf(char *text, size_t room, const char *format, ...);

#endif
