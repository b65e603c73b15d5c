/* Scaled dot-product attention of one head with integer products.
 *
 *   codes of q[t] and k[s], each with a scale of its own over the depth; of v[.][d], with one over the keys: as
 *   f32_qd8_quantize without norm; r = 1 / scale
 *   score[t][s] = ((float)(exact sum of q codes times k codes) * (scale * r_q[t])) * r_k[s], then + mask[t][s]
 *   part[t][s]  = part_of(max - score): 16256 are a weight of 1; with causal, over s <= t only
 *   mixed[t][d] = (float)(exact sum over s of part times v code), in blocks of 1024 keys, added in order
 *   out[t][d]   = mixed * (r_v[d] * (1 / (float)(sum of the parts)))
 *
 * The parts have 14 bits, so that weights are as good as float's for a softmax, whose small ones count by their number;
 * and a sum of a block fits 32 bits. A row without a score above -inf becomes zero.
 */
#include "kernels/scalar/scalar.h"

/* (a * b) / 2^15, halves up: PMULHRSW, SQRDMULH. */
static int32_t product_of(int32_t a, int32_t b) { return (a * b + (1 << 14)) >> 15; }

/* round(16256 * e^-below), to 1.3e-4 of itself and half a part; of NaN 0. In units of 1/4096 octave, the fraction of
 * which has a cubic in integers of 16 bits; 61439 are so many that the part is 0. */
static int32_t part_of(float below) {
  const float octaves = below * 5909.279f; /* 4096 log2(e) */
  const int32_t t = (int32_t)rintf(octaves < 61439.0f ? octaves : 61439.0f);
  const int32_t whole = t >> 12, fraction = (t & 4095) << 3;
  int32_t p = -1273;
  p = product_of(p, fraction) + 7494;
  p = product_of(p, fraction) - 22478;
  p = product_of(p, fraction) + 2 * EDGE_ATTENTION_ONE;
  return (p + (1 << whole)) >> (whole + 1);
}

/* Codes of `count` values `step` floats apart, to every `to_step`-th byte; returns 1 / scale. */
static float codes_of(size_t count, const float *x, size_t step, int8_t *codes, size_t to_step) {
  float amax = 1e-5f;
  for (size_t i = 0; i < count; ++i) {
    const float magnitude = fabsf(x[i * step]);
    amax = magnitude > amax ? magnitude : amax;
  }
  const float scale = (1.0f / amax) * 127.0f;
  for (size_t i = 0; i < count; ++i) codes[i * to_step] = edge_code_of(x[i * step], scale, -127.0f);
  return 1.0f / scale;
}

typedef struct scratch {
  float *key_step, *value_step, *scores; /* r_k, r_v */
  int32_t *parts;
  int8_t *keys, *values, *query;
} scratch;

static size_t bytes_of(size_t keys, size_t depth) {
  return (3 * keys + depth) * sizeof(float) + 2 * keys * depth + depth;
}

size_t edge_qd8_attention_scratch__scalar(size_t keys, size_t depth) { return bytes_of(keys, depth); }

void edge_qd8_attention__scalar(const edge_attention_head *head, size_t first, size_t last) {
  const size_t keys = head->keys, depth = head->depth;
  scratch own = {.key_step = head->scratch};
  own.scores = own.key_step + keys;
  own.parts = (int32_t *)(own.scores + keys);
  own.value_step = (float *)(own.parts + keys);
  own.keys = (int8_t *)(own.value_step + depth);
  own.values = own.keys + keys * depth;
  own.query = own.values + keys * depth;
  for (size_t s = 0; s < keys; ++s) {
    own.key_step[s] = codes_of(depth, head->k + s * head->k_step, 1, own.keys + s * depth, 1);
  }
  for (size_t d = 0; d < depth; ++d) {
    own.value_step[d] = codes_of(keys, head->v + d, head->v_step, own.values + d, depth);
  }
  for (size_t t = first; t < last; ++t) {
    const size_t seen = head->causal && t + 1 < keys ? t + 1 : keys;
    const float factor = head->scale * codes_of(depth, head->q + t * head->q_step, 1, own.query, 1);
    float max = -INFINITY;
    for (size_t s = 0; s < seen; ++s) {
      int32_t dot = 0;
      for (size_t d = 0; d < depth; ++d) dot += own.query[d] * own.keys[s * depth + d];
      float score = ((float)dot * factor) * own.key_step[s];
      if (head->mask != NULL) score += head->mask[t * head->mask_query_step + s * head->mask_key_step];
      own.scores[s] = score;
      if (score > max) max = score;
    }
    float *out = head->out + t * head->out_step;
    if (max == -INFINITY) {
      for (size_t d = 0; d < depth; ++d) out[d] = 0.0f;
      continue;
    }
    int32_t sum = 0;
    for (size_t s = 0; s < seen; ++s) {
      own.parts[s] = part_of(max - own.scores[s]);
      sum += own.parts[s];
    }
    const float share = 1.0f / (float)sum;
    for (size_t d = 0; d < depth; ++d) {
      float mixed = 0.0f;
      for (size_t first_key = 0; first_key < seen; first_key += EDGE_ATTENTION_BLOCK) {
        const size_t end = seen - first_key < EDGE_ATTENTION_BLOCK ? seen : first_key + EDGE_ATTENTION_BLOCK;
        int32_t block = 0;
        for (size_t s = first_key; s < end; ++s) block += own.parts[s] * own.values[s * depth + d];
        mixed += (float)block;
      }
      out[d] = mixed * (own.value_step[d] * share);
    }
  }
}
