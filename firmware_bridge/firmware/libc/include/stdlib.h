/* The firmware's own C library has no heap. */
#ifndef EDGE_LIBC_STDLIB_H
#define EDGE_LIBC_STDLIB_H

#include <stddef.h>

static inline int abs(int x) { return x < 0 ? -x : x; }

#endif
