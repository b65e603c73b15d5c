/* edge::attention(q, k, v, mask?, scale, causal, out) and edge::attention_qkv(qkv, heads, scale, causal, out), and the
 * same with integer products: edge::attention_int8 and edge::attention_qkv_int8.
 *
 * The numeric contracts are in kernels/scalar/f32_attention.c and qd8_attention.c.
 */
#include "kernels/kernels.h"
#include "ops/args.h"
#include "ops/ops.h"

enum { Q, K, V, MASK, SCALE, CAUSAL, OUT };
enum { QKV, HEADS, QKV_SCALE, QKV_CAUSAL, QKV_OUT };

static const edge_attention *kernel_of(const edge_call *call) {
  const bool integer = call->op == &edge_op_edge_attention_int8 || call->op == &edge_op_edge_attention_qkv_int8;
  return integer ? &call->kernels->qd8_attention : &call->kernels->f32_attention;
}

/* Each thread has scratch of its own. */
static edge_status reserve(edge_call *call, int32_t keys, int32_t depth) {
  const edge_attention *kernel = kernel_of(call);
  if (kernel == &call->kernels->qd8_attention && (keys > EDGE_ATTENTION_KEYS || depth > EDGE_ATTENTION_KEYS)) {
    return edge_fail(call, EDGE_UNSUPPORTED, "%d keys of depth %d, at most %d each are supported", (int)keys,
                     (int)depth, EDGE_ATTENTION_KEYS);
  }
  const uint64_t one = edge_whole_lines(kernel->scratch_bytes((size_t)keys, (size_t)depth));
  return edge_reserve(call, one * edge_thread_count(call->threads));
}

/* The heads of all samples: `head` of sample 0 and the steps from there. */
typedef struct job {
  const edge_call *call;
  edge_attention_head head;
  size_t heads;
  size_t in_sample, in_head;         /* floats from one sample and one head to the next */
  size_t key_sample, key_head;       /* likewise of k and v */
  size_t out_sample, out_head;
  size_t mask_sample, mask_head;
  size_t blocks, block; /* of queries */
} job;

static void attend(void *context, size_t task, size_t thread) {
  const job *work = context;
  const edge_attention *kernel = kernel_of(work->call);
  edge_attention_head one = work->head;
  const size_t first = task % work->blocks * work->block, b = task / work->blocks / work->heads;
  const size_t h = task / work->blocks % work->heads;
  const size_t last = first + work->block < one.queries ? first + work->block : one.queries;
  one.q += b * work->in_sample + h * work->in_head;
  one.k += b * work->key_sample + h * work->key_head;
  one.v += b * work->key_sample + h * work->key_head;
  one.out += b * work->out_sample + h * work->out_head;
  if (one.mask != NULL) one.mask += b * work->mask_sample + h * work->mask_head;
  one.scratch = (char *)work->call->scratch + thread * edge_whole_lines(kernel->scratch_bytes(one.keys, one.depth));
  kernel->run(&one, first, last);
}

static void attend_all(edge_call *call, job *work, size_t samples) {
  edge_threads *pool = edge_threads_for(call, (double)call->macs / 40.0);
  const size_t threads = edge_thread_count(pool), heads = samples * work->heads;
  work->call = call;
  /* Queries of a head share some preparation: they are split only where there are fewer heads than threads. */
  work->blocks = heads == 0 || threads <= heads ? 1 : (threads + heads - 1) / heads;
  work->block = (work->head.queries + work->blocks - 1) / work->blocks;
  if (work->block > 0) edge_parallel(pool, heads * work->blocks, attend, work);
}

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
  return reserve(call, k->sizes[2], q->sizes[3]);
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
  job work = {
      .head =
          {
              .queries = queries,
              .keys = keys,
              .depth = depth,
              .q = q->data,
              .k = edge_tensor_at(call, K)->data,
              .v = edge_tensor_at(call, V)->data,
              .q_step = depth,
              .k_step = depth,
              .v_step = depth,
              .mask = mask != NULL ? mask->data : NULL,
              .mask_query_step = mask_step[2],
              .mask_key_step = mask_step[3],
              .scale = (float)edge_real_at(call, SCALE),
              .causal = edge_bool_at(call, CAUSAL),
              .out = edge_tensor_at(call, OUT)->data,
              .out_step = depth,
          },
      .heads = heads,
      .in_sample = heads * queries * depth,
      .in_head = queries * depth,
      .key_sample = heads * keys * depth,
      .key_head = keys * depth,
      .out_sample = heads * queries * depth,
      .out_head = queries * depth,
      .mask_sample = mask_step[0],
      .mask_head = mask_step[1],
  };
  attend_all(call, &work, (size_t)q->sizes[0]);
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
  return reserve(call, sizes[1], (int32_t)(sizes[2] / heads));
}

static edge_status run_attention_qkv(edge_call *call) {
  const edge_tensor *qkv = edge_tensor_at(call, QKV);
  const size_t heads = (size_t)edge_int_at(call, HEADS), tokens = (size_t)qkv->sizes[1];
  const size_t width = (size_t)qkv->sizes[2] / 3, depth = width / heads;
  const float *q = qkv->data;
  job work = {
      .head =
          {
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
              .out = edge_tensor_at(call, QKV_OUT)->data,
              .out_step = width,
          },
      .heads = heads,
      .in_sample = tokens * 3 * width,
      .in_head = depth,
      .key_sample = tokens * 3 * width,
      .key_head = depth,
      .out_sample = tokens * width,
      .out_head = depth,
  };
  attend_all(call, &work, (size_t)qkv->sizes[0]);
  return EDGE_OK;
}

const edge_op edge_op_edge_attention = {"edge::attention.out", 7, 1, check_attention, run_attention};
const edge_op edge_op_edge_attention_qkv = {"edge::attention_qkv.out", 5, 1, check_attention_qkv, run_attention_qkv};
const edge_op edge_op_edge_attention_int8 = {"edge::attention_int8.out", 7, 1, check_attention, run_attention};
const edge_op edge_op_edge_attention_qkv_int8 = {"edge::attention_qkv_int8.out", 5, 1, check_attention_qkv,
                                                 run_attention_qkv};
