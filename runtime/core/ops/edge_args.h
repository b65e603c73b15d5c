/* Arguments that several edge:: operators share: scales, bias, residual, epilogue, and convolution geometry. */
#ifndef EDGE_EDGE_ARGS_H
#define EDGE_EDGE_ARGS_H

#include "kernels/kernels.h"
#include "ops/args.h"

/* float32 [1] or [n]. */
edge_status edge_take_scales(edge_call *call, uint32_t index, int32_t n);
/* float32 [n], or None. */
edge_status edge_take_bias(edge_call *call, uint32_t index, int32_t n);
/* float32 of exactly these sizes, or None. */
edge_status edge_take_residual(edge_call *call, uint32_t index, const int32_t *sizes, uint32_t rank);
/* One of EDGE_ACT_*. */
edge_status edge_take_activation(edge_call *call, uint32_t index);

/* Of checked arguments; `bias` may be NULL. */
edge_epilogue edge_read_epilogue(const edge_call *call, uint32_t scales, const edge_tensor *bias, uint32_t activation,
                                 bool bitlinear_compat);

/* The geometry of a convolution of x [B,C,H,W], or [B,C,W] as of height 1, with weight [O,C/groups,kh,kw]; stride,
 * padding and dilation are the arguments from `stride` on; `groups` 0: there is one. Refuses what does not fit, an empty output included. */
edge_status edge_take_convolution(edge_call *call, const edge_tensor *x, const edge_tensor *weight, uint32_t stride,
                                  uint32_t groups, edge_conv2d *conv);
/* Two sizes of at least `low`, one of which stands for both. */
edge_status edge_take_pair(edge_call *call, uint32_t index, const char *name, int64_t low, int32_t pair[2]);
/* Outputs of a window that slides over `size` (+ padding) values; at most 0 if there is none. */
int64_t edge_window_count(int64_t size, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation,
                          bool ceil_mode);

/* For splitting work into tasks. */
static inline size_t smaller(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t blocks(size_t count, size_t block) { return (count + block - 1) / block; }

/* See EDGE_TERSE in error.h. */
#if defined(EDGE_TERSE) && !defined(EDGE_TERSE_DEFINES)
#define edge_take_pair(call, index, name, ...) edge_take_pair(call, index, NULL, __VA_ARGS__)
#endif

#endif
