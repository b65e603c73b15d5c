/* Scaled dot-product attention of one head.
 *
 *   score[t][s] = (sum over d of q[t][d] * k[s][d], in order from 0) * scale, then + mask[t][s]
 *   p[t] = softmax(score[t]) as f32_softmax; with causal, over s <= t only
 *   out[t][d] = sum over s of p[t][s] * v[s][d], in order from 0
 */
#include "kernels/scalar/scalar.h"

size_t edge_f32_attention_scratch__scalar(size_t keys, size_t depth) {
  (void)depth;
  return keys * sizeof(float);
}

void edge_f32_attention__scalar(const edge_attention_head *head, size_t first, size_t last) {
  float *scores = head->scratch;
  for (size_t t = first; t < last; ++t) {
    const size_t seen = head->causal && t + 1 < head->keys ? t + 1 : head->keys;
    const float *q = head->q + t * head->q_step;
    for (size_t s = 0; s < seen; ++s) {
      const float *k = head->k + s * head->k_step;
      float score = 0.0f;
      for (size_t d = 0; d < head->depth; ++d) score += q[d] * k[d];
      score *= head->scale;
      if (head->mask != NULL) score += head->mask[t * head->mask_query_step + s * head->mask_key_step];
      scores[s] = score;
    }
    edge_f32_softmax__scalar(seen, scores, scores);
    float *out = head->out + t * head->out_step;
    for (size_t d = 0; d < head->depth; ++d) out[d] = 0.0f;
    for (size_t s = 0; s < seen; ++s) {
      const float p = scores[s];
      const float *v = head->v + s * head->v_step;
      for (size_t d = 0; d < head->depth; ++d) out[d] += p * v[d];
    }
  }
}
