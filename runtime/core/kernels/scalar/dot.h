/* The inner loop of the integer GEMMs. */
#ifndef EDGE_KERNELS_SCALAR_DOT_H
#define EDGE_KERNELS_SCALAR_DOT_H

#include <stddef.h>
#include <stdint.h>

/* Weights that are unpacked at a time, on the stack, and then meet every row: the unpacking is paid once a row block,
 * and the products are a loop that any compiler vectorizes. */
#define EDGE_UNPACK 256

/* Exact in int32 as long as the operators' `check` bounds the depth. */
static inline int32_t edge_dot_s8(size_t n, const int8_t *a, const int8_t *b) {
  int32_t sum = 0;
  for (size_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

#endif
