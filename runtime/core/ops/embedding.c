/* Rows of a table: edge::add_quantized(x, codes, scales, out), edge::sequence_pool(x, weight, bias?, out) and
 * aten::embedding(weight, indices, padding_idx, scale_grad_by_freq, sparse, out).
 */
#include "kernels/kernels.h"
#include "ops/edge_args.h"
#include "ops/ops.h"

#include <string.h>

/* --- add_quantized: y = x + codes * scale of the row; the table repeats over x's leading dimensions ------------ */

static edge_status check_add_quantized(edge_call *call) {
  const edge_tensor *x, *codes, *scales;
  EDGE_TRY(edge_take_tensor(call, 0, "x", EDGE_F32, &x));
  EDGE_TRY(edge_take_tensor(call, 1, "codes", EDGE_BIT(EDGE_INT8), &codes));
  EDGE_TRY(edge_take_tensor(call, 2, "scales", EDGE_F32, &scales));
  if (codes->rank < 1 || codes->rank > x->rank ||
      memcmp(codes->sizes, x->sizes + (x->rank - codes->rank), codes->rank * sizeof codes->sizes[0]) != 0) {
    edge_shape_text given, wanted;
    return edge_fail(call, EDGE_BAD_ARGUMENT, "codes of shape %s is not the end of x's shape %s",
                     edge_shape_string(&given, codes->sizes, codes->rank),
                     edge_shape_string(&wanted, x->sizes, x->rank));
  }
  const int32_t rows = (int32_t)edge_product(codes->sizes, 0, codes->rank - 1u);
  EDGE_TRY(edge_expect_shape(call, scales, "scales", &rows, 1));
  return edge_take_output(call, 3, "out", EDGE_F32, x->sizes, x->rank);
}

static edge_status run_add_quantized(edge_call *call) {
  const edge_tensor *x = edge_tensor_at(call, 0), *codes = edge_tensor_at(call, 1);
  const float *scales = edge_tensor_at(call, 2)->data, *in = x->data;
  float *out = edge_tensor_at(call, 3)->data;
  const int64_t rows = edge_product(codes->sizes, 0, codes->rank - 1u);
  const int64_t width = codes->sizes[codes->rank - 1];
  const int64_t repeats = edge_product(x->sizes, 0, (uint32_t)(x->rank - codes->rank));
  for (int64_t b = 0; b < repeats; ++b) {
    const int8_t *code = codes->data;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t i = 0; i < width; ++i) *out++ = *in++ + (float)*code++ * scales[r];
    }
  }
  return EDGE_OK;
}

/* --- sequence_pool: softmax over T of (x . weight + bias), then the weighted sum of the tokens ----------------- */

static edge_status check_sequence_pool(edge_call *call) {
  const edge_tensor *x, *weight;
  EDGE_TRY(edge_take_tensor(call, 0, "x", EDGE_F32, &x));
  EDGE_TRY(edge_take_tensor(call, 1, "weight", EDGE_F32, &weight));
  if (x->rank != 3) return edge_fail(call, EDGE_BAD_ARGUMENT, "x has %u dimensions, expected 3 [B, T, D]", x->rank);
  EDGE_TRY(edge_expect_shape(call, weight, "weight", &x->sizes[2], 1));
  EDGE_TRY(edge_take_bias(call, 2, 1));
  const int32_t sizes[2] = {x->sizes[0], x->sizes[2]};
  EDGE_TRY(edge_take_output(call, 3, "out", EDGE_F32, sizes, 2));
  call->macs = 2 * (uint64_t)edge_elements(x);
  return edge_reserve(call, (uint64_t)x->sizes[1] * sizeof(float));
}

static edge_status run_sequence_pool(edge_call *call) {
  const edge_kernels *kernels = call->kernels;
  const edge_tensor *x = edge_tensor_at(call, 0), *bias = edge_optional_tensor_at(call, 2);
  const size_t tokens = (size_t)x->sizes[1], width = (size_t)x->sizes[2];
  float *score = call->scratch;
  for (size_t b = 0; b < (size_t)x->sizes[0]; ++b) {
    const float *in = (const float *)x->data + b * tokens * width;
    /* Tokens as outputs, of which vectors take many. */
    const edge_matrix values = {in, width, 1}, weight = {edge_tensor_at(call, 1)->data, width, 1};
    const edge_output_view scores = {score, NULL, tokens, 1};
    kernels->f32_gemm(1, tokens, width, weight, values, NULL, 0, &scores);
    for (size_t t = 0; bias != NULL && t < tokens; ++t) score[t] += *(const float *)bias->data;
    kernels->f32_softmax(tokens, score, score);
    const edge_output_view out = {(float *)edge_tensor_at(call, 3)->data + b * width, NULL, width, 1};
    const edge_matrix columns = {in, 1, width};
    kernels->f32_gemm(1, width, tokens, (edge_matrix){score, tokens, 1}, columns, NULL, 0, &out);
  }
  return EDGE_OK;
}

/* --- aten::embedding ------------------------------------------------------------------------------------------- */

enum { TABLE, INDICES, PADDING_INDEX, SCALE_GRAD, SPARSE, EMBEDDING_OUT };

static edge_status check_embedding(edge_call *call) {
  const edge_tensor *table, *indices;
  EDGE_TRY(edge_take_tensor(call, TABLE, "weight", EDGE_F32, &table));
  EDGE_TRY(edge_take_tensor(call, INDICES, "indices", EDGE_INDEX, &indices));
  if (table->rank != 2) return edge_fail(call, EDGE_BAD_ARGUMENT, "weight has %u dimensions, expected 2", table->rank);
  if (indices->rank >= EDGE_MAX_RANK) return edge_fail(call, EDGE_UNSUPPORTED, "indices has too many dimensions");
  int32_t sizes[EDGE_MAX_RANK];
  memcpy(sizes, indices->sizes, indices->rank * sizeof sizes[0]);
  sizes[indices->rank] = table->sizes[1];
  return edge_take_output(call, EMBEDDING_OUT, "out", EDGE_F32, sizes, indices->rank + 1u);
}

static edge_status run_embedding(edge_call *call) {
  const edge_tensor *table = edge_tensor_at(call, TABLE), *indices = edge_tensor_at(call, INDICES);
  const size_t width = (size_t)table->sizes[1];
  float *out = edge_tensor_at(call, EMBEDDING_OUT)->data;
  for (int64_t i = 0, n = edge_elements(indices); i < n; ++i, out += width) {
    const int64_t index =
        indices->dtype == EDGE_INT64 ? ((const int64_t *)indices->data)[i] : ((const int32_t *)indices->data)[i];
    if (index < 0 || index >= table->sizes[0]) {
      return edge_fail(call, EDGE_BAD_ARGUMENT, "index %lld at position %lld is not in 0 .. %d", (long long)index,
                       (long long)i, (int)table->sizes[0] - 1);
    }
    memmove(out, (const float *)table->data + (size_t)index * width, width * sizeof(float));
  }
  return EDGE_OK;
}

const edge_op edge_op_edge_add_quantized = {"edge::add_quantized.out", 4, 1, check_add_quantized, run_add_quantized,
                                             .covers = 1u << 0};
const edge_op edge_op_edge_sequence_pool = {"edge::sequence_pool.out", 4, 1, check_sequence_pool, run_sequence_pool};
const edge_op edge_op_aten_embedding = {"aten::embedding.out", 6, 1, check_embedding, run_embedding};
