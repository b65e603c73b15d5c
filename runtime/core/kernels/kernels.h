/* The compute kernels behind the operators: one struct of function pointers, one implementation per instruction set.
 *
 * Names follow XNNPACK: qd8 is an int8 activation quantized dynamically, with one scale a row; qc2w, qc4w and qc8w are
 * weights of 2, 4 and 8 bits with one scale an output channel. Every implementation matches `scalar` bit by bit:
 * integer sums are exact, and the float operations of each kernel's contract happen in the order written there.
 *
 * Kernels validate nothing and never fail; the operators' `check` did. No pointer may be NULL unless said.
 */
#ifndef EDGE_KERNELS_H
#define EDGE_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/layouts.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Lanes of the float sums whose order is part of a contract (norms, softmax): lane l adds the values l, l + 16, …
 * in that order, then 8, 4, 2 and 1 lanes are folded onto the lower ones. */
#define EDGE_SUM_LANES 16
/* Outputs of a GEMM come in panels of this many; a range of outputs starts at a multiple of it. */
#define EDGE_PANEL 64
/* Activation rows that one GEMM call is given at most; bounds its temporary memory. */
#define EDGE_ROW_BLOCK 48
/* Tokens that one call of a quantizer takes at most. */
#define EDGE_TOKEN_BLOCK 16
/* Quantized rows are zero-padded to a multiple of this. */
#define EDGE_ROW_ALIGN 16

/* What the integer GEMM needs to know of a quantized row. */
typedef struct edge_row {
  float scale; /* s_x: code = round(value * scale) */
  float step;  /* 1 / scale */
  int32_t sum; /* of the codes; wraps beyond 2^24 of them, where only convolutions go, which do not use it */
} edge_row;

/* What becomes of an integer accumulator; see edge_dequantize in scalar/epilogue.h. */
typedef struct edge_epilogue {
  const float *scales; /* of the weights */
  size_t scale_step;   /* 0: one scale for all outputs; 1: one each */
  const float *bias;   /* [n], or NULL */
  int activation;      /* EDGE_ACT_* in math_f32.h */
  bool bitlinear_compat;
} edge_epilogue;

/* A matrix of float outputs, and the residual that is added to it: element (row, n) is at row * row_step + n * step. */
typedef struct edge_output_view {
  float *data;
  const float *residual; /* same steps, or NULL; where products are of integers it may be `data` itself */
  size_t row_step;
  size_t step;
} edge_output_view;

/* Normalizes (unless norm_eps < 0) and quantizes `rows` <= EDGE_TOKEN_BLOCK rows of k adjacent values, which follow
 * each other: scalar/f32_qd8_quantize.c. Row r is written to codes + r * padded, `padded` >= k codes of which the rest
 * are zero, and row[r]. */
typedef void (*edge_quantize_rows_fn)(size_t rows, size_t k, const float *x, float norm_eps, bool bitlinear_compat,
                                      size_t padded, int8_t *codes, edge_row *row);

/* The same for `tokens` <= EDGE_TOKEN_BLOCK rows whose values lie `step` floats apart, and which start one float
 * apart: the pixels of an NCHW image. Row t goes to codes + t * padded and row[t]. */
typedef void (*edge_quantize_columns_fn)(size_t tokens, size_t k, const float *x, size_t step, float norm_eps,
                                         bool bitlinear_compat, size_t padded, int8_t *codes, edge_row *row);

/* out[r][n] = epilogue(sum over k of codes[r][k] * weight[n][k]) for `rows` <= EDGE_ROW_BLOCK rows of `padded` codes.
 * Weights in the file's layout are row-major, `ceil(k * bits / 8)` bytes a row; a code w stands for w - zero_point
 * (qc8w: two's complement, no zero point). */
typedef struct edge_qd8_gemm {
  size_t rows, n, k, padded;
  const int8_t *codes;
  const edge_row *row;
  const void *weight; /* packed, or in the file's layout where packed_bytes is NULL */
  int zero_point;
  edge_epilogue epilogue;
  edge_output_view out;
  void *scratch; /* of scratch_bytes; at a multiple of 16 */
} edge_qd8_gemm;

/* The GEMM for one storage of the weights. A kernel may want them in a layout of its own: `packed_bytes` says how many
 * bytes that takes (0 where it cannot serve this shape, which is then the scalar kernel's), `pack` writes it. Both are
 * NULL for a kernel that reads the file's layout. `run` computes the outputs first .. last - 1; `first` is a multiple
 * of EDGE_PANEL, and so is `last` unless it is n. */
typedef struct edge_qd8_weights {
  size_t (*packed_bytes)(size_t n, size_t k);
  void (*pack)(size_t n, size_t k, const uint8_t *weight, void *packed);
  void (*run)(const edge_qd8_gemm *gemm, size_t first, size_t last);
  int layout; /* edge_layout of the file's weights that `run` reads where it packs none: layouts.h */
  /* Temporary memory of `run`; NULL: it needs none. Only for kernels of machines without threads: calls share it. */
  size_t (*scratch_bytes)(size_t n, size_t k);
} edge_qd8_weights;

/* The geometry of a 2-D convolution over NCHW; weights are [out_channels, channels / groups, kernel_h, kernel_w]. */
typedef struct edge_conv2d {
  int32_t batch, channels, height, width;
  int32_t out_channels, out_height, out_width;
  int32_t kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w;
  int32_t groups;
} edge_conv2d;

/* One sample of a convolution of int8 codes; see scalar/qd8_f32_qc8w_conv2d.c and scalar/qd8_f32_qc2w_conv2d.c. Codes
 * outside the image count as zero.
 *
 * Weights in the file's layout are int8 [out_channels, channels / groups, kernel_h, kernel_w] for qc8w. For qc2w they
 * are ternary and groups is 1: out_channels rows of ceil(kernel_h * kernel_w * channels / 4) bytes, four codes w + 1 a
 * byte, the first in the lowest bits, in the order kernel row, kernel column, channel, so that the codes which a row of
 * the kernel meets are one run of an image whose channels are last. */
typedef struct edge_qd8_conv2d {
  edge_conv2d shape;
  const void *image;  /* from `quantize` */
  edge_row row;       /* likewise: one scale for the sample; the sum is not used */
  const void *weight; /* packed, or in the file's layout where packed_bytes is NULL */
  edge_epilogue epilogue;
  edge_output_view out; /* (pixel, channel): row_step is 1, or step is */
  void *scratch;        /* of scratch_bytes, of this call of `run` alone; at a multiple of 16 */
} edge_qd8_conv2d;

/* As edge_qd8_weights, for convolutions: `quantize` writes one float sample [channels, height, width] as an image of
 * codes in the kernel's layout, `image_bytes` long, and gives its scale; `run` computes the output rows
 * first .. last - 1 of all channels, and has `scratch_bytes` of temporary memory (NULL: it needs none). The sample's
 * channels may come first or last.
 *
 * Where `row_bytes` is not NULL, an image may hold some rows only: `scale` is that of all the sample's values,
 * `quantize_rows` writes the rows first .. last - 1 of the sample one after the other, row_bytes each, and `run` takes
 * an image of the rows that `shape.height` and `padding_h` then tell of. `quantize` writes them all. */
typedef struct edge_qd8_conv2d_weights {
  size_t (*packed_bytes)(const edge_conv2d *shape);
  void (*pack)(const edge_conv2d *shape, const void *weight, void *packed);
  size_t (*image_bytes)(const edge_conv2d *shape);
  void (*quantize)(const edge_conv2d *shape, const float *x, bool channels_last, void *image, edge_row *row);
  void (*run)(const edge_qd8_conv2d *conv, size_t first, size_t last);
  size_t (*scratch_bytes)(const edge_conv2d *shape);
  int layout; /* as in edge_qd8_weights; qc2w only */
  size_t (*row_bytes)(const edge_conv2d *shape);
  edge_row (*scale)(size_t count, const float *x); /* the sum is between the two functions */
  void (*quantize_rows)(const edge_conv2d *shape, const float *x, bool channels_last, const edge_row *row, size_t first,
                        size_t last, void *rows);
} edge_qd8_conv2d_weights;

/* One sample of a float convolution: scalar/f32_conv2d.c. */
typedef struct edge_f32_conv2d {
  edge_conv2d shape;
  const float *x;
  bool channels_last;  /* of x */
  const float *weight; /* packed, or in the file's layout where packed_bytes is NULL */
  const float *bias;   /* [out_channels], or NULL */
  int activation;
  edge_output_view out; /* (pixel, channel): row_step is 1, or step is */
} edge_f32_conv2d;

/* Output pixels, row after row, and channels. The first channel is a multiple of EDGE_PANEL, and so is the last unless
 * it is the end; all channels where there are several groups. */
typedef struct edge_conv_part {
  size_t first_pixel, last_pixel, first_channel, last_channel;
} edge_conv_part;

/* As edge_qd8_weights, for float convolutions; `run` computes one part of the output. Where `image_bytes` is not 0, it
 * wants the channels of x last: `turn` writes such an image of so many bytes from one whose channels come first. */
typedef struct edge_f32_conv2d_weights {
  size_t (*packed_bytes)(const edge_conv2d *shape);
  void (*pack)(const edge_conv2d *shape, const float *weight, void *packed);
  size_t (*image_bytes)(const edge_conv2d *shape);
  void (*turn)(const edge_conv2d *shape, const float *x, float *image);
  void (*run)(const edge_f32_conv2d *conv, const edge_conv_part *part);
} edge_f32_conv2d_weights;

/* A float matrix: element (i, j) is at data[i * row_step + j * step]. */
typedef struct edge_matrix {
  const float *data;
  size_t row_step;
  size_t step;
} edge_matrix;

/* out[r][n] = residual[r][n] + activation(sum over k of a[r][k] * b[n][k] + bias[n]): scalar/f32_gemm.c.
 * Vectorized kernels are fast where b.row_step is 1 (outputs lie side by side) or b.step is (an output's factors do, as
 * those of a linear), and correct anywhere. */
typedef void (*edge_f32_gemm_fn)(size_t rows, size_t n, size_t k, edge_matrix a, edge_matrix b, const float *bias,
                                 int activation, const edge_output_view *out);

/* out = (x - mean) * rstd * weight + bias over each of `rows` <= EDGE_TOKEN_BLOCK rows of k values, which follow each
 * other; a row's mean and rstd are also written if not NULL: scalar/f32_layer_norm.c. In place if out == x. */
typedef void (*edge_f32_layer_norm_fn)(size_t rows, size_t k, const float *x, const float *weight, const float *bias,
                                       float eps, float *out, float *mean, float *rstd);

/* out = softmax(x) over k values; all zero where no value is above -inf: scalar/f32_softmax.c. In place if out == x. */
typedef void (*edge_f32_softmax_fn)(size_t k, const float *x, float *out);

/* out[i] = the largest of x[0][i] … x[count - 1][i]: scalar/f32_largest.c. One of them may be `out`; count >= 1. */
typedef void (*edge_f32_largest_fn)(size_t n, size_t count, const float *const *x, float *out);

/* One head of attention: scalar/f32_attention.c, and scalar/qd8_attention.c with integer products. */
typedef struct edge_attention_head {
  size_t queries, keys, depth;
  const float *q, *k, *v;
  size_t q_step, k_step, v_step; /* floats from one position to the next; a position's values are adjacent */
  const float *mask;             /* added to the scores, or NULL */
  size_t mask_query_step, mask_key_step;
  float scale;
  bool causal; /* query t sees keys 0 .. t */
  float *out;
  size_t out_step;
  void *scratch; /* temporary, of scratch_bytes */
} edge_attention_head;

/* `run` computes the queries first .. last - 1 of a head. */
typedef struct edge_attention {
  size_t (*scratch_bytes)(size_t keys, size_t depth);
  void (*run)(const edge_attention_head *head, size_t first, size_t last);
} edge_attention;

/* Parts that an attention weight of 1 has in scalar/qd8_attention.c, and keys up to which sums of them fit 32 bits: of
 * the parts alone, and of their products with codes. */
#define EDGE_ATTENTION_ONE 16256
#define EDGE_ATTENTION_KEYS 131072
#define EDGE_ATTENTION_BLOCK 1024

typedef struct edge_kernels {
  const char *isa;
  edge_quantize_rows_fn f32_qd8_quantize;
  edge_quantize_columns_fn f32_qd8_quantize_columns;
  edge_qd8_weights qd8_f32_qc2w;
  edge_qd8_weights qd8_f32_qc4w;
  edge_qd8_weights qd8_f32_qc8w;
  edge_qd8_conv2d_weights qd8_f32_qc8w_conv2d;
  edge_qd8_conv2d_weights qd8_f32_qc2w_conv2d;
  edge_f32_gemm_fn f32_gemm;
  edge_f32_conv2d_weights f32_conv2d;
  edge_f32_layer_norm_fn f32_layer_norm;
  edge_f32_softmax_fn f32_softmax;
  edge_f32_largest_fn f32_largest;
  edge_attention f32_attention;
  edge_attention qd8_attention;
} edge_kernels;

/* The reference implementation, always built. */
extern const edge_kernels edge_kernels_scalar;

/* The kernels that this machine runs, best first and scalar last: select.c. NULL behind the last. */
const edge_kernels *edge_kernels_at(size_t index);
/* By name, as "avx2"; NULL where this build or this machine does not have them. */
const edge_kernels *edge_kernels_named(const char *isa);

#ifdef __cplusplus
}
#endif
#endif
