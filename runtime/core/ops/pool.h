/* Windows that slide over an image, and the largest value in each: what pooling and convolutions with a pool share. */
#ifndef EDGE_POOL_H
#define EDGE_POOL_H

#include "ops/edge_args.h"

typedef struct edge_pooling {
  int32_t kernel[2], stride[2], padding[2], dilation[2];
  int32_t size[2], out_size[2]; /* height, width */
} edge_pooling;

/* Reads kernel, stride (empty: as kernel) and padding from `first` on, for an image of `size`; `dilation` is that
 * argument's index, or 0. Refuses what gives no output. */
edge_status edge_take_pooling(edge_call *call, uint32_t first, uint32_t dilation, uint32_t ceil_mode,
                              const int32_t size[2], edge_pooling *pool);

/* The part of a window that lies inside: positions first, first + dilation, … below end. */
typedef struct edge_window {
  int64_t first, end;
} edge_window;

/* Of the output `out` along dimension `d`. */
edge_window edge_window_at(const edge_pooling *pool, int d, int32_t out);

/* An image, or some rows of one, whose channels are last. */
typedef struct edge_pixels {
  const float *data; /* of row `first_row` */
  int64_t first_row;
  size_t channels;
} edge_pixels;

/* Pixels whose channels are written together where they lie a plane apart: as many as a cache line holds. */
enum { EDGE_POOLED_TOGETHER = 16 };

/* Row `oy` of the largest values of all channels; the first one's at `out`, pixels and channels so many floats apart.
 * `room` has the channels of `together` pixels. */
void edge_max_pixels(const edge_kernels *kernels, const edge_pooling *pool, const edge_pixels *x, int32_t oy,
                     float *out, size_t pixel_step, size_t channel_step, float *room, size_t together);

#endif
