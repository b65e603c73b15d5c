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

#ifdef __cplusplus
extern "C" {
#endif

/* Lanes of the float sums whose order is part of a contract (norms, softmax): lane l adds the values l, l + 16, …
 * in that order, then 8, 4, 2 and 1 lanes are folded onto the lower ones. */
#define EDGE_SUM_LANES 16
/* Activation rows that one GEMM call is given at most; bounds the temporary memory. */
#define EDGE_ROW_BLOCK 16
/* Quantized rows are zero-padded to a multiple of this. */
#define EDGE_ROW_ALIGN 16

/* What the integer GEMM needs to know of a quantized row. */
typedef struct edge_row {
  float scale; /* s_x: code = round(value * scale) */
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
  const float *residual; /* same steps, or NULL */
  size_t row_step;
  size_t step;
} edge_output_view;

/* Normalizes (unless norm_eps < 0) and quantizes one row: scalar/f32_qd8_quantize.c.
 * Reads k values `step` floats apart; writes `padded` >= k codes, the rest zero. */
typedef void (*edge_quantize_row_fn)(size_t k, const float *x, size_t step, float norm_eps, bool bitlinear_compat,
                                     size_t padded, int8_t *codes, edge_row *row);

/* out[r][n] = epilogue(sum over k of codes[r][k] * weight[n][k]) for `rows` <= EDGE_ROW_BLOCK rows of `padded` codes.
 * Weights are row-major, `ceil(k * bits / 8)` bytes a row; a code w stands for w - zero_point (qc8w: two's complement,
 * no zero point). */
typedef void (*edge_qd8_gemm_fn)(size_t rows, size_t n, size_t k, const int8_t *codes, size_t padded,
                                 const edge_row *row, const uint8_t *weight, int zero_point,
                                 const edge_epilogue *epilogue, const edge_output_view *out);

/* The geometry of a 2-D convolution over NCHW; weights are [out_channels, channels / groups, kernel_h, kernel_w]. */
typedef struct edge_conv2d {
  int32_t batch, channels, height, width;
  int32_t out_channels, out_height, out_width;
  int32_t kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w;
  int32_t groups;
} edge_conv2d;

/* One sample of int8 codes [channels, height, width]: scalar/qd8_f32_qc8w_conv2d.c. Codes outside count as zero. */
typedef void (*edge_qd8_conv2d_fn)(const edge_conv2d *conv, const int8_t *codes, float row_scale, const int8_t *weight,
                                   const edge_epilogue *epilogue, float *out, const float *residual);

/* One sample of floats: scalar/f32_conv2d.c. */
typedef void (*edge_f32_conv2d_fn)(const edge_conv2d *conv, const float *x, const float *weight, const float *bias,
                                   int activation, float *out, const float *residual);

/* A float matrix: element (i, j) is at data[i * row_step + j * step]. */
typedef struct edge_matrix {
  const float *data;
  size_t row_step;
  size_t step;
} edge_matrix;

/* out[r][n] = residual[r][n] + activation(sum over k of a[r][k] * b[n][k] + bias[n]): scalar/f32_gemm.c. */
typedef void (*edge_f32_gemm_fn)(size_t rows, size_t n, size_t k, edge_matrix a, edge_matrix b, const float *bias,
                                 int activation, const edge_output_view *out);

/* out = (x - mean) * rstd * weight + bias over k values; mean and rstd are also written if not NULL:
 * scalar/f32_layer_norm.c. */
typedef void (*edge_f32_layer_norm_fn)(size_t k, const float *x, const float *weight, const float *bias, float eps,
                                       float *out, float *mean, float *rstd);

/* out = softmax(x) over k values; all zero where no value is above -inf: scalar/f32_softmax.c. In place if out == x. */
typedef void (*edge_f32_softmax_fn)(size_t k, const float *x, float *out);

/* One head of attention: scalar/f32_attention.c. */
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
  float *scores; /* temporary, [keys] */
} edge_attention_head;
typedef void (*edge_f32_attention_fn)(const edge_attention_head *head);

typedef struct edge_kernels {
  const char *isa;
  edge_quantize_row_fn f32_qd8_quantize;
  edge_qd8_gemm_fn qd8_f32_qc2w_gemm;
  edge_qd8_gemm_fn qd8_f32_qc4w_gemm;
  edge_qd8_gemm_fn qd8_f32_qc8w_gemm;
  edge_qd8_conv2d_fn qd8_f32_qc8w_conv2d;
  edge_f32_gemm_fn f32_gemm;
  edge_f32_conv2d_fn f32_conv2d;
  edge_f32_layer_norm_fn f32_layer_norm;
  edge_f32_softmax_fn f32_softmax;
  edge_f32_attention_fn f32_attention;
} edge_kernels;

/* The reference implementation, always built. */
extern const edge_kernels edge_kernels_scalar;

/* The kernels that the operators use on this machine. */
static inline const edge_kernels *edge_kernels_select(void) { return &edge_kernels_scalar; }

#ifdef __cplusplus
}
#endif
#endif
