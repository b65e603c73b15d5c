/* Convolutions as their operators share them: float or of int8 codes, with a pool behind or without.
 *
 * A convolution is opened once a run and prepared once a sample; then any of its output rows can be computed, in any
 * order and by any thread.
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

/* One convolution while it runs. */
typedef struct edge_convolution {
  edge_conv2d shape;
  edge_conv_scratch scratch;
  const edge_tensor *x;
  const edge_qd8_conv2d_weights *codes; /* NULL for a float convolution */
  const edge_f32_conv2d_weights *floats;
  edge_qd8_conv2d of_codes;
  edge_f32_conv2d of_floats;
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
/* Reads sample `index`, all of it where the convolution is of codes; `image` has scratch.image bytes. */
void edge_conv_sample(edge_convolution *conv, size_t index, void *image);
/* Output rows first .. last - 1 of all channels; `out` is of the whole output, `own` has scratch.thread bytes. */
void edge_conv_rows(const edge_convolution *conv, size_t first, size_t last, const edge_output_view *out, void *own);

#endif
