/* scalar/f32_layer_norm.c, f32_softmax.c and f32_keep_larger.c over sixteen lanes. */

static void EDGE_SIMD(layer_norm)(size_t k, const float *x, const float *weight, const float *bias, float eps,
                                  float *out, float *mean, float *rstd) {
  const moments norm = v_moments(k, x, eps);
  const vf center = vf_set(norm.mean), factor = vf_set(norm.rstd);
  for (size_t i = 0; i < k; i += 16) {
    const size_t n = k - i < 16 ? k - i : 16;
    vf y = vf_mul(vf_sub(vf_load_first(x + i, n), center), factor);
    if (weight != NULL) y = vf_mul(y, vf_load_first(weight + i, n));
    if (bias != NULL) y = vf_add(y, vf_load_first(bias + i, n));
    vf_store_first(out + i, y, n);
  }
  if (mean != NULL) *mean = norm.mean;
  if (rstd != NULL) *rstd = norm.rstd;
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

static void EDGE_SIMD(keep_larger)(size_t n, const float *x, float *best) {
  for (size_t i = 0; i < n; i += 16) {
    const size_t some = n - i < 16 ? n - i : 16;
    const vf new = vf_load_first(x + i, some), old = vf_load_first(best + i, some);
    vf_store_first(best + i, vf_select(vm_either(vf_less(old, new), vf_nan(new)), new, old), some);
  }
}
