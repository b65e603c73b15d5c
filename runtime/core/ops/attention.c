/* edge::attention(q, k, v, mask?, scale, causal, out) and edge::attention_qkv(qkv, heads, scale, causal, out).
 *
 * The numeric contract is in kernels/scalar/f32_attention.c.
 */
#include "kernels/kernels.h"
#include "ops/args.h"
#include "ops/ops.h"

enum { Q, K, V, MASK, SCALE, CAUSAL, OUT };
enum { QKV, HEADS, QKV_SCALE, QKV_CAUSAL, QKV_OUT };

static edge_status check_attention(edge_call *call) {
  const edge_tensor *q, *k, *v, *mask;
  edge_shape_text given, wanted;
  EDGE_TRY(edge_take_tensor(call, Q, "q", EDGE_F32, &q));
  EDGE_TRY(edge_take_tensor(call, K, "k", EDGE_F32, &k));
  EDGE_TRY(edge_take_tensor(call, V, "v", EDGE_F32, &v));
  EDGE_TRY(edge_take_optional_tensor(call, MASK, "mask", EDGE_F32, &mask));
  if (q->rank != 4) return edge_fail(call, EDGE_BAD_ARGUMENT, "q has %u dimensions, expected 4 [B, H, T, d]", q->rank);
  if (q->sizes[3] < 1) return edge_fail(call, EDGE_BAD_ARGUMENT, "q has heads of depth 0, expected at least 1");
  if (k->rank != 4 || k->sizes[2] < 1) return edge_fail(call, EDGE_BAD_ARGUMENT, "k is not [B, H, S, d] with S >= 1");
  const int32_t keys[4] = {q->sizes[0], q->sizes[1], k->sizes[2], q->sizes[3]};
  EDGE_TRY(edge_expect_shape(call, k, "k", keys, 4));
  EDGE_TRY(edge_expect_shape(call, v, "v", keys, 4));
  if (mask != NULL) {
    const int32_t scores[4] = {q->sizes[0], q->sizes[1], q->sizes[2], k->sizes[2]};
    bool fits = mask->rank <= 4;
    for (uint32_t d = 0; fits && d < mask->rank; ++d) {
      fits = mask->sizes[d] == 1 || mask->sizes[d] == scores[4 - mask->rank + d];
    }
    if (!fits) {
      return edge_fail(call, EDGE_BAD_ARGUMENT, "mask of shape %s does not broadcast to %s",
                       edge_shape_string(&given, mask->sizes, mask->rank), edge_shape_string(&wanted, scores, 4));
    }
  }
  double scale;
  bool causal;
  EDGE_TRY(edge_take_real(call, SCALE, "scale", &scale));
  EDGE_TRY(edge_take_bool(call, CAUSAL, "causal", &causal));
  EDGE_TRY(edge_take_output(call, OUT, "out", EDGE_F32, q->sizes, 4));
  call->macs = 2 * (uint64_t)edge_elements(q) * (uint64_t)k->sizes[2];
  return edge_reserve(call, (uint64_t)k->sizes[2] * sizeof(float));
}

static edge_status run_attention(edge_call *call) {
  const edge_tensor *q = edge_tensor_at(call, Q), *mask = edge_optional_tensor_at(call, MASK);
  const size_t heads = (size_t)q->sizes[1], queries = (size_t)q->sizes[2], depth = (size_t)q->sizes[3];
  const size_t keys = (size_t)edge_tensor_at(call, K)->sizes[2];
  size_t mask_step[4] = {0, 0, 0, 0}; /* 0 where the mask is broadcast */
  if (mask != NULL) {
    size_t step = 1;
    for (uint32_t d = mask->rank; d-- > 0;) {
      if (mask->sizes[d] != 1) mask_step[4 - mask->rank + d] = step;
      step *= (size_t)mask->sizes[d];
    }
  }
  for (size_t b = 0; b < (size_t)q->sizes[0]; ++b) {
    for (size_t h = 0; h < heads; ++h) {
      const size_t head = b * heads + h;
      const edge_attention_head one = {
          .queries = queries,
          .keys = keys,
          .depth = depth,
          .q = (const float *)q->data + head * queries * depth,
          .k = (const float *)edge_tensor_at(call, K)->data + head * keys * depth,
          .v = (const float *)edge_tensor_at(call, V)->data + head * keys * depth,
          .q_step = depth,
          .k_step = depth,
          .v_step = depth,
          .mask = mask != NULL ? (const float *)mask->data + b * mask_step[0] + h * mask_step[1] : NULL,
          .mask_query_step = mask_step[2],
          .mask_key_step = mask_step[3],
          .scale = (float)edge_real_at(call, SCALE),
          .causal = edge_bool_at(call, CAUSAL),
          .out = (float *)edge_tensor_at(call, OUT)->data + head * queries * depth,
          .out_step = depth,
          .scores = call->scratch,
      };
      edge_kernels_select()->f32_attention(&one);
    }
  }
  return EDGE_OK;
}

static edge_status check_attention_qkv(edge_call *call) {
  const edge_tensor *qkv;
  int64_t heads = 1;
  double scale;
  bool causal;
  EDGE_TRY(edge_take_tensor(call, QKV, "qkv", EDGE_F32, &qkv));
  EDGE_TRY(edge_take_int(call, HEADS, "heads", 1, INT32_MAX, &heads));
  /* Without the first comparison a tensor without elements would take any number of heads. */
  if (qkv->rank != 3 || qkv->sizes[2] / 3 < heads || qkv->sizes[2] % 3 != 0 || qkv->sizes[2] / 3 % heads != 0) {
    edge_shape_text given;
    return edge_fail(call, EDGE_BAD_ARGUMENT, "qkv has shape %s, expected [B, T, 3 * %d * depth]",
                     edge_shape_string(&given, qkv->sizes, qkv->rank), (int)heads);
  }
  EDGE_TRY(edge_take_real(call, QKV_SCALE, "scale", &scale));
  EDGE_TRY(edge_take_bool(call, QKV_CAUSAL, "causal", &causal));
  const int32_t sizes[3] = {qkv->sizes[0], qkv->sizes[1], qkv->sizes[2] / 3};
  EDGE_TRY(edge_take_output(call, QKV_OUT, "out", EDGE_F32, sizes, 3));
  call->macs = 2 * (uint64_t)edge_product(sizes, 0, 3) * (uint64_t)sizes[1];
  return edge_reserve(call, (uint64_t)sizes[1] * sizeof(float));
}

static edge_status run_attention_qkv(edge_call *call) {
  const edge_tensor *qkv = edge_tensor_at(call, QKV);
  const size_t heads = (size_t)edge_int_at(call, HEADS), tokens = (size_t)qkv->sizes[1];
  const size_t width = (size_t)qkv->sizes[2] / 3, depth = width / heads;
  for (size_t b = 0; b < (size_t)qkv->sizes[0]; ++b) {
    for (size_t h = 0; h < heads; ++h) {
      const float *q = (const float *)qkv->data + b * tokens * 3 * width + h * depth;
      const edge_attention_head one = {
          .queries = tokens,
          .keys = tokens,
          .depth = depth,
          .q = q,
          .k = q + width,
          .v = q + 2 * width,
          .q_step = 3 * width,
          .k_step = 3 * width,
          .v_step = 3 * width,
          .scale = (float)edge_real_at(call, QKV_SCALE),
          .causal = edge_bool_at(call, QKV_CAUSAL),
          .out = (float *)edge_tensor_at(call, QKV_OUT)->data + b * tokens * width + h * depth,
          .out_step = width,
          .scores = call->scratch,
      };
      edge_kernels_select()->f32_attention(&one);
    }
  }
  return EDGE_OK;
}

const edge_op edge_op_edge_attention = {"edge::attention.out", 7, 1, check_attention, run_attention};
const edge_op edge_op_edge_attention_qkv = {"edge::attention_qkv.out", 5, 1, check_attention_qkv, run_attention_qkv};
