/* scalar/f32_layer_norm.c, f32_softmax.c and f32_largest.c over sixteen lanes. */

static void EDGE_SIMD(layer_norm)(size_t rows, size_t k, const float *x, const float *weight, const float *bias,
                                  float eps, float *out, float *mean, float *rstd) {
  float center[EDGE_TOKEN_BLOCK], factor[EDGE_TOKEN_BLOCK];
  moments_of_rows(rows, k, x, eps, center, factor, NULL);
  for (size_t r = 0; r < rows; ++r) {
    const float *from = x + r * k;
    float *to = out + r * k;
    const vf middle = vf_set(center[r]), scale = vf_set(factor[r]);
    size_t i = 0;
    if (weight != NULL && bias != NULL) {
      for (; i + 16 <= k; i += 16) {
        const vf y = vf_mul(vf_sub(vf_load(from + i), middle), scale);
        vf_store(to + i, vf_add(vf_mul(y, vf_load(weight + i)), vf_load(bias + i)));
      }
    }
    for (; i < k; i += 16) {
      const size_t n = k - i < 16 ? k - i : 16;
      vf y = vf_mul(vf_sub(vf_load_first(from + i, n), middle), scale);
      if (weight != NULL) y = vf_mul(y, vf_load_first(weight + i, n));
      if (bias != NULL) y = vf_add(y, vf_load_first(bias + i, n));
      vf_store_first(to + i, y, n);
    }
  }
  if (mean != NULL) memcpy(mean, center, rows * sizeof(float));
  if (rstd != NULL) memcpy(rstd, factor, rows * sizeof(float));
}

static void EDGE_SIMD(softmax)(size_t k, const float *x, float *out) {
  const size_t whole = k / 16 * 16, rest = k - whole;
  vf top = vf_set(-INFINITY);
  for (size_t i = 0; i < whole; i += 16) top = vf_larger(vf_load(x + i), top);
  float max = vf_largest(top);
  for (size_t i = whole; i < k; ++i) max = x[i] > max ? x[i] : max;
  if (max == -INFINITY) { /* every key masked, unless there is a NaN */
    edge_f32_softmax__scalar(k, x, out);
    return;
  }
  const vf shift = vf_set(max);
  vf sum = vf_set(0.0f);
  for (size_t i = 0; i < whole; i += 16) {
    const vf e = v_exp_of_score(vf_sub(vf_load(x + i), shift));
    sum = vf_add(sum, e);
    vf_store(out + i, e);
  }
  if (rest > 0) {
    const vf e = vf_first(v_exp_of_score(vf_sub(vf_load_first(x + whole, rest), shift)), rest);
    sum = vf_add(sum, e);
    vf_store_first(out + whole, e, rest);
  }
  const float scale = 1.0f / vf_fold(sum);
  const vf factor = vf_set(scale);
  for (size_t i = 0; i < whole; i += 16) vf_store(out + i, vf_mul(vf_load(out + i), factor));
  for (size_t i = whole; i < k; ++i) out[i] *= scale;
}

EDGE_INLINE vf larger_or_nan(vf x, vf best) { return vf_select(vf_nan(x), x, vf_larger(x, best)); }

static void EDGE_SIMD(largest)(size_t n, size_t count, const float *const *x, float *out) {
  size_t i = 0;
  for (; i + 16 <= n; i += 16) {
    vf best = vf_load(x[0] + i);
    for (size_t j = 1; j < count; ++j) best = larger_or_nan(vf_load(x[j] + i), best);
    vf_store(out + i, best);
  }
  if (i == n) return;
  vf best = vf_load_first(x[0] + i, n - i);
  for (size_t j = 1; j < count; ++j) best = larger_or_nan(vf_load_first(x[j] + i, n - i), best);
  vf_store_first(out + i, best, n - i);
}
