/* Convolutions as their operators share them: float or of int8 codes, with a pool behind or without.
 *
 * A convolution is opened once a run and prepared once a sample; then its output rows can be computed, by any thread.
 */
#ifndef EDGE_CONVOLUTION_H
#define EDGE_CONVOLUTION_H

#include "ops/edge_args.h"

typedef enum edge_conv_weights { EDGE_CONV_FLOAT, EDGE_CONV_INT8, EDGE_CONV_TERNARY } edge_conv_weights;

/* Where an operator has its arguments, behind x (0) and the weight (1); 0 for those that it does not have. Padding and
 * dilation follow the stride. `kernel` is that of weights which do not tell it. */
typedef struct edge_conv_layout {
  edge_conv_weights weights;
  uint32_t scales, bias, residual, kernel, stride, groups, activation;
} edge_conv_layout;

/* Temporary memory: the sample as the kernel wants it, then what each thread needs. */
typedef struct edge_conv_scratch {
  uint64_t image, thread;
} edge_conv_scratch;

/* Rows of the sample that an image holds, where it does not hold them all. */
typedef struct edge_conv_band {
  size_t outputs; /* rows of the output that it can be filled for; 0: it holds them all */
  size_t first, last;
} edge_conv_band;

/* One convolution while it runs. */
typedef struct edge_convolution {
  edge_conv2d shape;
  edge_conv_scratch scratch;
  const edge_tensor *x;
  const edge_qd8_conv2d_weights *codes; /* NULL for a float convolution */
  const edge_f32_conv2d_weights *floats;
  edge_qd8_conv2d of_codes;
  edge_f32_conv2d of_floats;
  edge_conv_band band;
  void *image;
  const float *sample;
  double macs_a_nanosecond; /* what a fast core does; see edge_threads_for */
} edge_convolution;

edge_status edge_conv_geometry(edge_call *call, const edge_conv_layout *at, edge_conv2d *shape);

/* Checks all arguments but the output (a residual is of `conv`'s own output's shape), and sets macs and packed_bytes. */
edge_status edge_check_conv(edge_call *call, const edge_conv_layout *at, edge_conv2d *shape,
                            edge_conv_scratch *scratch);
/* For an operator's `pack`. */
void edge_pack_conv(edge_call *call, const edge_conv_layout *at);

/* Of a checked call. */
edge_status edge_open_conv(edge_call *call, const edge_conv_layout *at, edge_convolution *conv);
/* Takes sample `index`, whose values must stay until its last row is computed, but for those of one whose outputs lie on
 * it; `image` has scratch.image bytes. */
void edge_conv_sample(edge_convolution *conv, size_t index, void *image);
/* Output rows first .. last - 1 of all channels; `out` is of the whole output, `own` has scratch.thread bytes. Where
 * there is one thread, the image may be a band: rows must then be asked for in order. */
void edge_conv_rows(edge_convolution *conv, size_t first, size_t last, const edge_output_view *out, void *own);

#endif
