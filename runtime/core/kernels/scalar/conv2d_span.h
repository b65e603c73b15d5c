/* Which outputs of a row a column of the convolution kernel reaches without leaving the input. */
#ifndef EDGE_KERNELS_SCALAR_CONV2D_SPAN_H
#define EDGE_KERNELS_SCALAR_CONV2D_SPAN_H

#include "kernels/kernels.h"

/* Outputs of one row that are accumulated together, on the stack. */
#define EDGE_CONV_SPAN 64

/* Outputs begin .. end - 1 read the input column x * stride_w + offset, which is inside. */
typedef struct edge_span {
  int32_t begin, end, offset;
} edge_span;

static inline edge_span edge_conv_span(const edge_conv2d *conv, int32_t kw, int32_t begin, int32_t end) {
  edge_span span = {begin, end, kw * conv->dilation_w - conv->padding_w};
  if (span.offset < 0) { /* the first x with x * stride + offset >= 0 */
    const int32_t first = (-span.offset + conv->stride_w - 1) / conv->stride_w;
    if (first > span.begin) span.begin = first;
  }
  const int32_t room = conv->width - 1 - span.offset; /* the last x with x * stride <= room */
  const int32_t last = room < 0 ? -1 : room / conv->stride_w;
  if (last + 1 < span.end) span.end = last + 1;
  return span;
}

#endif
