/* scalar/f32_qd8_quantize.c and the moments of scalar/f32_layer_norm.c over sixteen lanes. */

typedef struct moments {
  float mean, rstd;
} moments;

EDGE_INLINE moments v_moments(size_t k, const float *x, float eps) {
  const size_t whole = k / 16 * 16, rest = k - whole;
  vf sum = vf_set(0.0f);
  for (size_t i = 0; i < whole; i += 16) sum = vf_add(sum, vf_load(x + i));
  if (rest > 0) sum = vf_add(sum, vf_load_first(x + whole, rest));
  const float mean = vf_fold(sum) / (float)k;
  const vf center = vf_set(mean);
  sum = vf_set(0.0f);
  for (size_t i = 0; i < whole; i += 16) {
    const vf d = vf_sub(vf_load(x + i), center);
    sum = vf_add(sum, vf_mul(d, d));
  }
  if (rest > 0) {
    const vf d = vf_first(vf_sub(vf_load_first(x + whole, rest), center), rest);
    sum = vf_add(sum, vf_mul(d, d));
  }
  const float variance = vf_fold(sum) / (float)k;
  return (moments){mean, 1.0f / sqrtf(variance + eps)};
}

static void EDGE_SIMD(quantize)(size_t k, const float *x, float norm_eps, bool bitlinear_compat, size_t padded,
                                int8_t *codes, edge_row *row) {
  moments norm = {0.0f, 1.0f};
  if (norm_eps >= 0.0f) norm = v_moments(k, x, norm_eps);
  const vf mean = vf_set(norm.mean), rstd = vf_set(norm.rstd);
  const size_t whole = k / 16 * 16, rest = k - whole;
  vf largest = vf_set(1e-5f);
  for (size_t i = 0; i < whole; i += 16) {
    largest = vf_larger(vf_abs(vf_mul(vf_sub(vf_load(x + i), mean), rstd)), largest);
  }
  if (rest > 0) {
    const vf last = vf_mul(vf_sub(vf_load_first(x + whole, rest), mean), rstd);
    largest = vf_larger(vf_abs(vf_first(last, rest)), largest);
  }
  row->scale = (1.0f / vf_largest(largest)) * (bitlinear_compat ? 128.0f : 127.0f);
  row->step = 1.0f / row->scale;
  const vf scale = vf_set(row->scale), low = vf_set(bitlinear_compat ? -128.0f : -127.0f);
  vi sum = vi_set(0);
  for (size_t i = 0; i < whole; i += 16) {
    const vi code = v_code(vf_mul(vf_sub(vf_load(x + i), mean), rstd), scale, low);
    sum = vi_add(sum, code);
    vi_store_codes(codes + i, code);
  }
  if (rest > 0) {
    const vf last = vf_first(vf_mul(vf_sub(vf_load_first(x + whole, rest), mean), rstd), rest);
    const vi code = v_code(last, scale, low);
    int8_t stored[16];
    sum = vi_add(sum, code);
    vi_store_codes(stored, code);
    memcpy(codes + whole, stored, rest);
  }
  row->sum = vi_fold(sum);
  memset(codes + k, 0, padded - k);
}

/* Sixteen tokens side by side: a lane is a token, so the lanes of each token's sums are sixteen vectors. */
static void EDGE_SIMD(quantize_columns)(size_t tokens, size_t k, const float *x, size_t step, float norm_eps,
                                        bool bitlinear_compat, size_t padded, int8_t *codes, edge_row *row) {
  vf mean = vf_set(0.0f), rstd = vf_set(1.0f);
  if (norm_eps >= 0.0f) {
    vf lane[EDGE_SUM_LANES];
    for (int pass = 0; pass < 2; ++pass) {
      for (size_t l = 0; l < EDGE_SUM_LANES; ++l) lane[l] = vf_set(0.0f);
      for (size_t i = 0; i < k; ++i) {
        vf term = vf_load_first(x + i * step, tokens);
        if (pass == 1) {
          term = vf_sub(term, mean);
          term = vf_mul(term, term);
        }
        lane[i % EDGE_SUM_LANES] = vf_add(lane[i % EDGE_SUM_LANES], term);
      }
      for (size_t width = EDGE_SUM_LANES / 2; width > 0; width /= 2) {
        for (size_t l = 0; l < width; ++l) lane[l] = vf_add(lane[l], lane[l + width]);
      }
      const vf average = vf_div(lane[0], vf_set((float)k));
      if (pass == 0) {
        mean = average;
      } else {
        rstd = vf_div(vf_set(1.0f), vf_sqrt(vf_add(average, vf_set(norm_eps))));
      }
    }
  }
  vf largest = vf_set(1e-5f);
  for (size_t i = 0; i < k; ++i) {
    const vf xhat = vf_mul(vf_sub(vf_load_first(x + i * step, tokens), mean), rstd);
    largest = vf_larger(vf_abs(xhat), largest);
  }
  const vf scale = vf_mul(vf_div(vf_set(1.0f), largest), vf_set(bitlinear_compat ? 128.0f : 127.0f));
  const vf low = vf_set(bitlinear_compat ? -128.0f : -127.0f);
  vi sum = vi_set(0);
  for (size_t start = 0; start < k; start += 16) {
    const size_t count = k - start < 16 ? k - start : 16;
    int8_t block[16][16]; /* value, token */
    for (size_t i = 0; i < count; ++i) {
      const vf xhat = vf_mul(vf_sub(vf_load_first(x + (start + i) * step, tokens), mean), rstd);
      const vi code = v_code(xhat, scale, low);
      sum = vi_add(sum, code);
      vi_store_codes(block[i], code);
    }
    for (size_t t = 0; t < tokens; ++t) {
      for (size_t i = 0; i < count; ++i) codes[t * padded + start + i] = block[i][t];
    }
  }
  float scales[16];
  int32_t sums[16];
  vf_store(scales, scale);
  vi_store(sums, sum);
  for (size_t t = 0; t < tokens; ++t) {
    row[t] = (edge_row){scales[t], 1.0f / scales[t], sums[t]};
    memset(codes + t * padded + k, 0, padded - k);
  }
}
