/* The operators that the core knows, each defined in the file of its family as `edge_op_<symbol>`. */
#ifndef EDGE_OPS_H
#define EDGE_OPS_H

#include "op.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The project's own, fused and quantized: ExecuTorch gets these through op_library.cpp. */
#define EDGE_OWN_OPERATORS(X)                                                                                 \
  X(edge_ternary_linear) X(edge_int_linear) X(edge_ternary_conv1x1) X(edge_int_conv1x1) X(edge_conv2d_int8)   \
  X(edge_ternary_conv2d)                                                                                      \
  X(edge_linear) X(edge_conv2d) X(edge_layer_norm) X(edge_attention) X(edge_attention_qkv) X(edge_attention_int8) \
  X(edge_attention_qkv_int8) X(edge_max_pool2d) X(edge_conv2d_max_pool2d) X(edge_conv2d_int8_max_pool2d)      \
  X(edge_ternary_conv2d_max_pool2d)                                                                           \
  X(edge_add_quantized) X(edge_sequence_pool)

/* Portable ATen operators, for programs exported by plain ExecuTorch. */
#define EDGE_ATEN_OPERATORS(X)                                                                            \
  X(aten_abs) X(aten_adaptive_avg_pool2d) X(aten_add) X(aten_add_scalar) X(aten_addmm) X(aten_alias_copy) \
  X(aten_amax) X(aten_amin) X(aten_any) X(aten_any_all) X(aten_any_dims) X(aten_arange)                   \
  X(aten_arange_start) X(aten_argmax) X(aten_argmin) X(aten_avg_pool2d) X(aten_bitwise_and)               \
  X(aten_bitwise_not) X(aten_bmm) X(aten_cat) X(aten_clamp) X(aten_clone) X(aten_constant_pad_nd)         \
  X(aten_convolution) X(aten_cos) X(aten_detach_copy) X(aten_div) X(aten_div_scalar) X(aten_elu)          \
  X(aten_embedding) X(aten_eq) X(aten_eq_scalar) X(aten_erf) X(aten_exp) X(aten_expand_copy) X(aten_full) \
  X(aten_full_like) X(aten_ge) X(aten_ge_scalar) X(aten_gelu) X(aten_gt) X(aten_gt_scalar)                \
  X(aten_hardsigmoid) X(aten_hardswish) X(aten_hardtanh) X(aten_le) X(aten_le_scalar) X(aten_leaky_relu)  \
  X(aten_lift_fresh_copy) X(aten_linear) X(aten_log) X(aten_log_softmax) X(aten_logical_and)              \
  X(aten_logical_not) X(aten_logical_or) X(aten_lt) X(aten_lt_scalar) X(aten_max_dim)                     \
  X(aten_max_pool2d_with_indices) X(aten_maximum) X(aten_mean) X(aten_min_dim) X(aten_minimum) X(aten_mm) \
  X(aten_mul) X(aten_mul_scalar) X(aten_native_batch_norm) X(aten_native_batch_norm_legit_no_training)    \
  X(aten_native_layer_norm) X(aten_ne) X(aten_ne_scalar) X(aten_neg) X(aten_permute_copy) X(aten_pow)     \
  X(aten_pow_scalar) X(aten_reciprocal) X(aten_relu) X(aten_rsqrt) X(aten_scalar_tensor)                  \
  X(aten_select_copy) X(aten_sigmoid) X(aten_silu) X(aten_sin) X(aten_slice_copy) X(aten_softmax)         \
  X(aten_split_copy) X(aten_split_with_sizes_copy) X(aten_sqrt) X(aten_squeeze_copy)                      \
  X(aten_squeeze_copy_dim) X(aten_squeeze_copy_dims) X(aten_sub) X(aten_sub_scalar) X(aten_sum)           \
  X(aten_tanh) X(aten_to_copy) X(aten_transpose_copy) X(aten_unbind_copy) X(aten_unsqueeze_copy)          \
  X(aten_view_copy) X(aten_where) X(dim_order_clone) X(dim_order_to_copy)

#define EDGE_OPERATORS(X) EDGE_OWN_OPERATORS(X) EDGE_ATEN_OPERATORS(X)

#define EDGE_DECLARE(symbol) extern const edge_op edge_op_##symbol;
EDGE_OPERATORS(EDGE_DECLARE)
#undef EDGE_DECLARE

#ifdef __cplusplus
}
#endif
#endif
