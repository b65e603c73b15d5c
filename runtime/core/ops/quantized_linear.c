/* edge::ternary_linear, edge::int_linear and their 1x1 convolution forms.
 *
 * All four are one computation over tokens: quantize a block of tokens to int8, multiply with the packed weights,
 * finish each accumulator (kernels/scalar/epilogue.h has the contract). A linear's token is the last dimension; a
 * convolution's is the channels of a pixel, which lie a plane apart: only the steps differ.
 *
 *   ternary_linear(x, packed, scales, bias?, residual?, norm_eps, activation, bitlinear_compat, out)
 *   int_linear(x, packed, scales, bias?, residual?, bits, norm_eps, activation, out)
 *   ternary_conv1x1(x, packed, scales, bias?, residual?, norm_eps, activation, out)
 *   int_conv1x1(x, packed, scales, bias?, residual?, bits, norm_eps, activation, out)
 */
#include "kernels/kernels.h"
#include "ops/edge_args.h"
#include "ops/ops.h"

#include <string.h>

enum { X, PACKED, SCALES, BIAS, RESIDUAL };

/* Where the options of each operator are; `bits` is 0 for the ternary ones, `compat` 0 for all but ternary_linear. */
typedef struct layout {
  uint32_t bits, norm_eps, activation, compat, out;
  bool conv;
} layout;

static const layout ternary_linear = {0, 5, 6, 7, 8, false};
static const layout int_linear = {5, 6, 7, 0, 8, false};
static const layout ternary_conv1x1 = {0, 5, 6, 0, 7, true};
static const layout int_conv1x1 = {5, 6, 7, 0, 8, true};

static size_t padded_depth(size_t k) { return (k + EDGE_ROW_ALIGN - 1) / EDGE_ROW_ALIGN * EDGE_ROW_ALIGN; }

static edge_status check(edge_call *call, const layout *at) {
  const edge_tensor *x, *packed;
  int64_t bits = 2;
  double norm_eps = 0.0;
  EDGE_TRY(edge_take_tensor(call, X, "x", EDGE_F32, &x));
  if (at->conv ? x->rank != 4 : x->rank < 1) {
    return edge_fail(call, EDGE_BAD_ARGUMENT, "x has %u dimensions, expected %s", (unsigned)x->rank,
                     at->conv ? "4 (NCHW)" : "at least 1");
  }
  if (at->bits) {
    EDGE_TRY(edge_take_int(call, at->bits, "bits", 2, 8, &bits));
    if (bits != 2 && bits != 4 && bits != 8) {
      return edge_fail(call, EDGE_UNSUPPORTED, "bits is %d, expected 2, 4 or 8", (int)bits);
    }
  }
  EDGE_TRY(edge_take_tensor(call, PACKED, "packed", EDGE_BIT(bits == 8 ? EDGE_INT8 : EDGE_UINT8), &packed));
  if (packed->rank != 2) {
    return edge_fail(call, EDGE_BAD_ARGUMENT, "packed has %u dimensions, expected 2", (unsigned)packed->rank);
  }
  const int32_t n = packed->sizes[0], k = x->sizes[at->conv ? 1 : x->rank - 1];
  /* So that no partial sum leaves int32, whatever codes the file holds: 128 * largest code * k < 2^31. */
  const int32_t deepest = bits == 2 ? 5592405 : bits == 4 ? 1118481 : 131071;
  if (k < 1 || k > deepest) {
    return edge_fail(call, EDGE_UNSUPPORTED, "%d values a token, expected 1 to %d", (int)k, (int)deepest);
  }
  const int32_t width = (int32_t)(((int64_t)k * bits + 7) / 8);
  if (packed->sizes[1] != width) {
    return edge_fail(call, EDGE_BAD_ARGUMENT, "packed has %d bytes a row, expected %d for %d values of %d bits",
                     (int)packed->sizes[1], (int)width, (int)k, (int)bits);
  }
  EDGE_TRY(edge_take_scales(call, SCALES, n));
  EDGE_TRY(edge_take_bias(call, BIAS, n));
  int32_t sizes[EDGE_MAX_RANK];
  memcpy(sizes, x->sizes, sizeof sizes);
  sizes[at->conv ? 1 : x->rank - 1] = n;
  EDGE_TRY(edge_take_output(call, at->out, "out", EDGE_F32, sizes, x->rank));
  EDGE_TRY(edge_take_residual(call, RESIDUAL, sizes, x->rank));
  EDGE_TRY(edge_take_real(call, at->norm_eps, "norm_eps", &norm_eps));
  EDGE_TRY(edge_take_activation(call, at->activation));
  bool compat;
  if (at->compat) EDGE_TRY(edge_take_bool(call, at->compat, "bitlinear_compat", &compat));
  call->macs = (uint64_t)edge_elements(edge_tensor_at(call, at->out)) * (uint64_t)k;
  return edge_reserve(call, EDGE_ROW_BLOCK * ((uint64_t)padded_depth((size_t)k) + sizeof(edge_row)));
}

static edge_status run(edge_call *call, const layout *at) {
  const edge_kernels *kernels = edge_kernels_select();
  const edge_tensor *x = edge_tensor_at(call, X), *packed = edge_tensor_at(call, PACKED);
  const edge_tensor *bias = edge_optional_tensor_at(call, BIAS), *residual = edge_optional_tensor_at(call, RESIDUAL);
  const int bits = at->bits ? (int)edge_int_at(call, at->bits) : 2;
  const edge_qd8_gemm_fn gemm = bits == 2   ? kernels->qd8_f32_qc2w_gemm
                                : bits == 4 ? kernels->qd8_f32_qc4w_gemm
                                            : kernels->qd8_f32_qc8w_gemm;
  const int zero_point = at->bits == 0 ? 1 : bits == 2 ? 2 : 8;
  const float norm_eps = (float)edge_real_at(call, at->norm_eps);
  const edge_epilogue epilogue =
      edge_read_epilogue(call, SCALES, bias, at->activation, at->compat && edge_bool_at(call, at->compat));

  const size_t n = (size_t)packed->sizes[0], k = (size_t)x->sizes[at->conv ? 1 : x->rank - 1];
  const size_t plane = at->conv ? (size_t)edge_product(x->sizes, 2, 4) : 1;
  /* A linear is one "sample" whose tokens follow each other; a convolution's samples have a plane of tokens each. */
  const size_t samples = at->conv ? (size_t)x->sizes[0] : 1;
  const size_t tokens = at->conv ? plane : (size_t)edge_elements(x) / k;
  const size_t x_row = at->conv ? 1 : k, out_row = at->conv ? 1 : n;

  edge_row *row = call->scratch;
  int8_t *codes = (int8_t *)(row + EDGE_ROW_BLOCK);
  const size_t padded = padded_depth(k);
  for (size_t sample = 0; sample < samples; ++sample) {
    const float *in = (const float *)x->data + sample * k * plane;
    for (size_t token = 0; token < tokens; token += EDGE_ROW_BLOCK) {
      const size_t rows = tokens - token < EDGE_ROW_BLOCK ? tokens - token : EDGE_ROW_BLOCK;
      for (size_t r = 0; r < rows; ++r) {
        kernels->f32_qd8_quantize(k, in + (token + r) * x_row, plane, norm_eps, epilogue.bitlinear_compat, padded,
                                  codes + r * padded, &row[r]);
      }
      const size_t offset = sample * n * plane + token * out_row;
      const edge_output_view out = {
          .data = (float *)edge_tensor_at(call, at->out)->data + offset,
          .residual = residual != NULL ? (const float *)residual->data + offset : NULL,
          .row_step = out_row,
          .step = plane,
      };
      gemm(rows, n, k, codes, padded, row, packed->data, zero_point, &epilogue, &out);
    }
  }
  return EDGE_OK;
}

static edge_status check_ternary_linear(edge_call *call) { return check(call, &ternary_linear); }
static edge_status run_ternary_linear(edge_call *call) { return run(call, &ternary_linear); }
static edge_status check_int_linear(edge_call *call) { return check(call, &int_linear); }
static edge_status run_int_linear(edge_call *call) { return run(call, &int_linear); }
static edge_status check_ternary_conv1x1(edge_call *call) { return check(call, &ternary_conv1x1); }
static edge_status run_ternary_conv1x1(edge_call *call) { return run(call, &ternary_conv1x1); }
static edge_status check_int_conv1x1(edge_call *call) { return check(call, &int_conv1x1); }
static edge_status run_int_conv1x1(edge_call *call) { return run(call, &int_conv1x1); }

const edge_op edge_op_edge_ternary_linear = {"edge::ternary_linear.out", 9, 1, check_ternary_linear,
                                             run_ternary_linear};
const edge_op edge_op_edge_int_linear = {"edge::int_linear.out", 9, 1, check_int_linear, run_int_linear};
const edge_op edge_op_edge_ternary_conv1x1 = {"edge::ternary_conv1x1.out", 8, 1, check_ternary_conv1x1,
                                              run_ternary_conv1x1};
const edge_op edge_op_edge_int_conv1x1 = {"edge::int_conv1x1.out", 9, 1, check_int_conv1x1, run_int_conv1x1};
