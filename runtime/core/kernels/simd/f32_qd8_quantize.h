/* scalar/f32_qd8_quantize.c and the moments of scalar/f32_layer_norm.c over sixteen lanes. */

/* Sixteen rows are worked on side by side. In a pass over their values a few rows go together, so that none waits for
 * its own last addition; a row's sixteen lanes are then folded for all rows at once, after vf_turn has made a row of
 * each lane and a lane of each row. */

/* Rows that go together. */
#define ROWS_TOGETHER 4

/* Fewer rows are folded one by one: turning sixteen vectors takes longer. */
#define FEW_ROWS 4

/* Folds the lanes of each vector, in the order of vf_fold: lane r is the sum of t[r]. */
static vf fold_rows(size_t rows, vf t[EDGE_TOKEN_BLOCK]) {
  if (rows < FEW_ROWS) {
    float sum[EDGE_TOKEN_BLOCK] = {0};
    for (size_t r = 0; r < rows; ++r) sum[r] = vf_fold(t[r]);
    return vf_load(sum);
  }
  return vf_fold_each(t);
}

static vf largest_in_rows(size_t rows, vf t[EDGE_TOKEN_BLOCK]) {
  if (rows < FEW_ROWS) {
    float largest[EDGE_TOKEN_BLOCK] = {0};
    for (size_t r = 0; r < rows; ++r) largest[r] = vf_largest(t[r]);
    return vf_load(largest);
  }
  return vf_largest_each(t);
}

EDGE_INLINE void add_rows(const size_t rows, size_t k, const float *x, vf *sum) {
  for (size_t r = 0; r < rows; ++r) sum[r] = vf_set(0.0f);
  size_t i = 0;
  for (; i + 16 <= k; i += 16) {
    EDGE_UNROLL
    for (size_t r = 0; r < rows; ++r) sum[r] = vf_add(sum[r], vf_load(x + r * k + i));
  }
  if (i == k) return;
  for (size_t r = 0; r < rows; ++r) sum[r] = vf_add(sum[r], vf_load_first(x + r * k + i, k - i));
}

/* The squares' sums and the largest of the distances from the means. */
EDGE_INLINE void spread_of_rows(const size_t rows, size_t k, const float *x, const float *mean, vf *sum, vf *largest) {
  for (size_t r = 0; r < rows; ++r) sum[r] = largest[r] = vf_set(0.0f);
  size_t i = 0;
  for (; i + 16 <= k; i += 16) {
    EDGE_UNROLL
    for (size_t r = 0; r < rows; ++r) {
      const vf d = vf_sub(vf_load(x + r * k + i), vf_set(mean[r]));
      sum[r] = vf_add(sum[r], vf_mul(d, d));
      largest[r] = vf_larger(vf_abs(d), largest[r]);
    }
  }
  if (i == k) return;
  for (size_t r = 0; r < rows; ++r) {
    const vf d = vf_first(vf_sub(vf_load_first(x + r * k + i, k - i), vf_set(mean[r])), k - i);
    sum[r] = vf_add(sum[r], vf_mul(d, d));
    largest[r] = vf_larger(vf_abs(d), largest[r]);
  }
}

/* Of each of `rows` <= EDGE_TOKEN_BLOCK rows; the largest distance from its mean only where `largest` is not NULL. */
EDGE_INLINE void moments_of_rows(size_t rows, size_t k, const float *x, float eps, float *mean, float *rstd,
                                 float *largest) {
  const size_t together = rows / ROWS_TOGETHER * ROWS_TOGETHER;
  vf sums[EDGE_TOKEN_BLOCK], largests[EDGE_TOKEN_BLOCK];
  for (size_t r = 0; r < EDGE_TOKEN_BLOCK; ++r) sums[r] = largests[r] = vf_set(0.0f);
  for (size_t r = 0; r < together; r += ROWS_TOGETHER) add_rows(ROWS_TOGETHER, k, x + r * k, sums + r);
  for (size_t r = together; r < rows; ++r) add_rows(1, k, x + r * k, sums + r);
  vf_store(mean, vf_div(fold_rows(rows, sums), vf_set((float)k)));
  for (size_t r = 0; r < together; r += ROWS_TOGETHER) {
    spread_of_rows(ROWS_TOGETHER, k, x + r * k, mean + r, sums + r, largests + r);
  }
  for (size_t r = together; r < rows; ++r) spread_of_rows(1, k, x + r * k, mean + r, sums + r, largests + r);
  const vf variance = vf_div(fold_rows(rows, sums), vf_set((float)k));
  vf_store(rstd, vf_div(vf_set(1.0f), vf_sqrt(vf_add(variance, vf_set(eps)))));
  if (largest != NULL) vf_store(largest, largest_in_rows(rows, largests));
}

EDGE_INLINE void largest_of_rows(const size_t rows, size_t k, const float *x, vf *largest) {
  for (size_t r = 0; r < rows; ++r) largest[r] = vf_set(0.0f);
  size_t i = 0;
  for (; i + 16 <= k; i += 16) {
    EDGE_UNROLL
    for (size_t r = 0; r < rows; ++r) largest[r] = vf_larger(vf_abs(vf_load(x + r * k + i)), largest[r]);
  }
  if (i == k) return;
  for (size_t r = 0; r < rows; ++r) largest[r] = vf_larger(vf_abs(vf_load_first(x + r * k + i, k - i)), largest[r]);
}

typedef struct row_quantizer {
  vf mean, rstd, scale;
} row_quantizer;

EDGE_INLINE vf normed(const row_quantizer *q, const bool norm, vf x) {
  return norm ? vf_mul(vf_sub(x, q->mean), q->rstd) : x;
}

EDGE_INLINE vi code_of(const row_quantizer *q, const bool compat, vf x) {
  return compat ? v_code(x, q->scale, vf_set(-128.0f)) : v_code_within(x, q->scale);
}

/* One row, zeros behind; returns the sum of its codes, lane by lane. */
EDGE_INLINE vi code_row(const row_quantizer *q, const bool norm, const bool compat, size_t k, const float *x,
                        size_t padded, int8_t *codes) {
  vi sum = vi_set(0);
  size_t i = 0;
  for (; !compat && i + 64 <= k; i += 64) {
    vf y[4];
    EDGE_UNROLL
    for (size_t j = 0; j < 4; ++j) y[j] = vf_mul(normed(q, norm, vf_load(x + i + 16 * j)), q->scale);
    sum = vi_add(sum, vf_store_64_codes(codes + i, y[0], y[1], y[2], y[3]));
  }
  for (; i + 16 <= k; i += 16) {
    const vi code = code_of(q, compat, normed(q, norm, vf_load(x + i)));
    sum = vi_add(sum, code);
    vi_store_codes(codes + i, code);
  }
  if (i < k) {
    /* What lies beyond is 0, not the mean. */
    const vi code = code_of(q, compat, vf_first(normed(q, norm, vf_load_first(x + i, k - i)), k - i));
    int8_t stored[16];
    sum = vi_add(sum, code);
    vi_store_codes(stored, code);
    memcpy(codes + i, stored, k - i);
  }
  if (k < padded) memset(codes + k, 0, padded - k);
  return sum;
}

/* Of so many codes a sum is exact in float. */
#define EXACT_SUM 131071

static void EDGE_SIMD(quantize)(size_t rows, size_t k, const float *x, float norm_eps, bool bitlinear_compat,
                                size_t padded, int8_t *codes, edge_row *row) {
  const bool norm = norm_eps >= 0.0f;
  vf sums[EDGE_TOKEN_BLOCK], largest;
  float means[EDGE_TOKEN_BLOCK], rstds[EDGE_TOKEN_BLOCK], scales[EDGE_TOKEN_BLOCK], steps[EDGE_TOKEN_BLOCK];
  for (size_t r = 0; r < EDGE_TOKEN_BLOCK; ++r) sums[r] = vf_set(0.0f);
  if (norm) {
    moments_of_rows(rows, k, x, norm_eps, means, rstds, scales);
    largest = vf_mul(vf_load(scales), vf_load(rstds)); /* the largest product: rounding keeps the order */
  } else {
    const size_t together = rows / ROWS_TOGETHER * ROWS_TOGETHER;
    for (size_t r = 0; r < together; r += ROWS_TOGETHER) largest_of_rows(ROWS_TOGETHER, k, x + r * k, sums + r);
    for (size_t r = together; r < rows; ++r) largest_of_rows(1, k, x + r * k, sums + r);
    largest = largest_in_rows(rows, sums);
  }
  largest = vf_larger(largest, vf_set(1e-5f));
  const vf scale = vf_mul(vf_div(vf_set(1.0f), largest), vf_set(bitlinear_compat ? 128.0f : 127.0f));
  vf_store(scales, scale);
  vf_store(steps, vf_div(vf_set(1.0f), scale));
  for (size_t r = 0; r < rows; ++r) {
    const row_quantizer q = {vf_set(norm ? means[r] : 0.0f), vf_set(norm ? rstds[r] : 1.0f), vf_set(scales[r])};
    const float *from = x + r * k;
    int8_t *to = codes + r * padded;
    const vi sum = bitlinear_compat ? code_row(&q, true, true, k, from, padded, to)
                   : norm           ? code_row(&q, true, false, k, from, padded, to)
                                    : code_row(&q, false, false, k, from, padded, to);
    row[r] = (edge_row){.scale = scales[r], .step = steps[r], .sum = k > EXACT_SUM ? vi_fold(sum) : 0};
    sums[r] = vi_to_float(sum);
  }
  if (k > EXACT_SUM) return;
  float totals[EDGE_TOKEN_BLOCK];
  vf_store(totals, fold_rows(rows, sums));
  for (size_t r = 0; r < rows; ++r) row[r].sum = (int32_t)totals[r];
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
  vi sum = vi_set(0);
  for (size_t start = 0; start < k; start += 16) {
    const size_t count = k - start < 16 ? k - start : 16;
    int8_t block[16][16]; /* value, token */
    for (size_t i = 0; i < count; ++i) {
      const vf xhat = vf_mul(vf_sub(vf_load_first(x + (start + i) * step, tokens), mean), rstd);
      const vi code = bitlinear_compat ? v_code(xhat, scale, vf_set(-128.0f)) : v_code_within(xhat, scale);
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
