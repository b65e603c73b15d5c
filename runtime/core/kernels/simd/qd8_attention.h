/* scalar/qd8_attention.c over the tiles of simd/qd8_dense.h: scores are a product of the queries' codes with the keys',
 * outputs one of the two halves of the parts with the values'. */

/* Queries at a time. */
#define QUERY_ROWS EDGE_ROW_BLOCK

EDGE_INLINE size_t whole(size_t count) { return (count + 15) / 16 * 16; }
EDGE_INLINE size_t whole_lines(size_t bytes) { return (bytes + 63) / 64 * 64; }

typedef struct attention_scratch {
  void *keys, *values;          /* packed */
  float *key_step, *value_step; /* 1 / scale */
  float *scores;
  int8_t *query, *high, *low; /* rows of codes */
  size_t score_row, query_row, part_row;
} attention_scratch;

EDGE_INLINE attention_scratch divide(void *memory, size_t keys, size_t depth, size_t *bytes) {
  const dense_runs over_depth = one_run(depth), over_keys = one_run(keys);
  attention_scratch own = {.score_row = whole(keys), .query_row = whole(depth), .part_row = whole(keys)};
  char *at = memory;
  own.keys = at;
  at += whole_lines(dense_bytes(&over_depth, keys));
  own.values = at;
  at += whole_lines(dense_bytes(&over_keys, depth));
  own.key_step = (float *)at;
  at += whole_lines(whole(keys) * sizeof(float));
  own.value_step = (float *)at;
  at += whole_lines(whole(depth) * sizeof(float));
  own.scores = (float *)at;
  at += whole_lines(QUERY_ROWS * own.score_row * sizeof(float));
  own.query = (int8_t *)at;
  at += whole_lines(QUERY_ROWS * own.query_row);
  own.high = (int8_t *)at;
  at += whole_lines(QUERY_ROWS * own.part_row);
  own.low = (int8_t *)at;
  at += whole_lines(QUERY_ROWS * own.part_row);
  *bytes = (size_t)(at - (char *)memory);
  return own;
}

size_t EDGE_SIMD(edge_qd8_attention_scratch)(size_t keys, size_t depth) {
  static char nowhere[1]; /* sizes only */
  size_t bytes;
  divide(nowhere, keys, depth, &bytes);
  return bytes;
}

/* Codes of one token, up to a whole vector, zeros behind; returns 1 / scale. */
EDGE_INLINE float token_codes(const float *x, size_t depth, int8_t *codes, int32_t *sum) {
  vf largest = vf_set(1e-5f);
  for (size_t i = 0; i < depth; i += 16) {
    largest = vf_larger(vf_abs(vf_load_first(x + i, depth - i < 16 ? depth - i : 16)), largest);
  }
  const float scale = (1.0f / vf_largest(largest)) * 127.0f;
  vi total = vi_set(0);
  for (size_t i = 0; i < depth; i += 16) {
    const vi code = v_code(vf_load_first(x + i, depth - i < 16 ? depth - i : 16), vf_set(scale), vf_set(-127.0f));
    total = vi_add(total, code);
    vi_store_codes(codes + i, code);
  }
  *sum = vi_fold(total);
  return 1.0f / scale;
}

/* Keys are outputs of the first product: quad by quad of the depth. */
static void pack_keys(const edge_attention_head *head, const attention_scratch *own) {
  const dense_runs runs = one_run(head->depth);
  const size_t panels = dense_panels(head->keys);
  int32_t *start = own->keys;
  int8_t *panel = (int8_t *)(start + panels * EDGE_PANEL);
  for (size_t s = 0; s < panels * EDGE_PANEL; ++s) {
    int8_t *to = panel + s / EDGE_PANEL * dense_panel_bytes(&runs) + s % EDGE_PANEL * 4;
    if (s >= head->keys) { /* beyond the last vector of sixteen nobody looks */
      start[s] = 0;
      if (s < whole(head->keys)) own->key_step[s] = 0.0f;
      continue;
    }
    int32_t sum;
    int8_t *codes = own->query; /* free until the queries come */
    own->key_step[s] = token_codes(head->k + s * head->k_step, head->depth, codes, &sum);
    start[s] = -DENSE_OFFSET * sum;
    for (size_t q = 0; q < runs.quads; ++q) memcpy(to + q * EDGE_PANEL * 4, codes + 4 * q, 4);
  }
}

/* Values are outputs of the second: sixteen of the depth at a time, quad by quad of the keys. */
static void pack_values(const edge_attention_head *head, const attention_scratch *own) {
  const dense_runs runs = one_run(head->keys);
  const size_t panels = dense_panels(head->depth);
  int32_t *start = own->values;
  for (size_t d = 0; d < head->depth; d += 16) {
    const size_t lanes = head->depth - d < 16 ? head->depth - d : 16;
    int8_t *to = (int8_t *)(start + panels * EDGE_PANEL) + d / EDGE_PANEL * dense_panel_bytes(&runs) +
                 d % EDGE_PANEL * 4;
    vf largest = vf_set(1e-5f);
    for (size_t s = 0; s < head->keys; ++s) {
      largest = vf_larger(vf_abs(vf_load_first(head->v + s * head->v_step + d, lanes)), largest);
    }
    const vf scale = vf_mul(vf_div(vf_set(1.0f), largest), vf_set(127.0f));
    vf_store(own->value_step + d, vf_div(vf_set(1.0f), scale));
    vi total = vi_set(0);
    for (size_t s = 0; s < head->keys; s += 4, to += EDGE_PANEL * 4) {
      vi code[4];
      for (size_t i = 0; i < 4; ++i) {
        code[i] = vi_set(0);
        if (s + i < head->keys) {
          code[i] = v_code(vf_load_first(head->v + (s + i) * head->v_step + d, lanes), scale, vf_set(-127.0f));
        }
        total = vi_add(total, code[i]);
      }
      vi_store_quads(to, code[0], code[1], code[2], code[3]);
    }
    vi_store(start + d, vi_mul(total, vi_set(-DENSE_OFFSET)));
  }
}

/* From a row of scores to the two halves of its parts; returns 1 / their sum, or 0 for a row that is all masked. */
EDGE_INLINE float parts_of(const float *scores, size_t seen, size_t padded, int8_t *high, int8_t *low) {
  vf top = vf_set(-INFINITY);
  for (size_t s = 0; s < seen; s += 16) {
    const size_t lanes = seen - s < 16 ? seen - s : 16;
    const vf score = vf_select(vm_first(lanes), vf_load(scores + s), vf_set(-INFINITY));
    top = vf_larger(score, top);
  }
  const float max = vf_largest(top);
  if (max == -INFINITY) return 0.0f;
  vi sum = vi_set(0);
  for (size_t s = 0; s < padded; s += 16) {
    vf part = vf_set(0.0f);
    if (s < seen) {
      part = vf_mul(v_exp_of_score(vf_sub(vf_load(scores + s), vf_set(max))), vf_set((float)EDGE_ATTENTION_ONE));
      part = vf_rint(vf_first(part, seen - s < 16 ? seen - s : 16));
      part = vf_select(vf_nan(part), vf_set(0.0f), part);
    }
    /* The middle between two multiples of 128 would be a tie; so little below it none is. */
    const vf upper = vf_rint(vf_sub(vf_mul(part, vf_set(0.0078125f)), vf_set(0.49609375f)));
    sum = vi_add(sum, vf_to_int(part));
    vi_store_codes(high + s, vf_to_int(upper));
    vi_store_codes(low + s, vf_to_int(vf_sub(part, vf_mul(upper, vf_set(128.0f)))));
  }
  return 1.0f / (float)vi_fold(sum);
}

/* Scores of some queries, before the mask: sums of a panel of keys to floats. */
static void score_queries(const edge_attention_head *head, const attention_scratch *own, size_t first, size_t rows) {
  const dense_runs runs = one_run(head->depth);
  const int8_t *row[QUERY_ROWS];
  float factor[QUERY_ROWS];
  for (size_t r = 0; r < rows; ++r) {
    int32_t ignored;
    int8_t *codes = own->query + r * own->query_row;
    factor[r] = head->scale * token_codes(head->q + (first + r) * head->q_step, head->depth, codes, &ignored);
    row[r] = codes;
  }
  for (size_t p = 0; p < dense_panels(head->keys); ++p) {
    _Alignas(64) int32_t sums[QUERY_ROWS * EDGE_PANEL];
    const size_t key = p * EDGE_PANEL, count = head->keys - key < EDGE_PANEL ? head->keys - key : EDGE_PANEL;
    dense_sums(&runs, own->keys, dense_panels(head->keys), p, row, rows, count, sums);
    for (size_t r = 0; r < rows; ++r) {
      float *to = own->scores + r * own->score_row + key;
      for (size_t j = 0; j < count; j += 16) {
        const vf dot = vf_mul(vi_to_float(vi_load(sums + r * EDGE_PANEL + j)), vf_set(factor[r]));
        vf_store(to + j, vf_mul(dot, vf_load(own->key_step + key + j)));
      }
    }
  }
}

static void mix_values(const edge_attention_head *head, const attention_scratch *own, size_t first, size_t rows,
                       const float *share) {
  const dense_runs runs = one_run(head->keys);
  const int8_t *high[QUERY_ROWS], *low[QUERY_ROWS];
  for (size_t r = 0; r < rows; ++r) {
    high[r] = own->high + r * own->part_row;
    low[r] = own->low + r * own->part_row;
  }
  for (size_t p = 0; p < dense_panels(head->depth); ++p) {
    _Alignas(64) int32_t upper[QUERY_ROWS * EDGE_PANEL], lower[QUERY_ROWS * EDGE_PANEL];
    const size_t d = p * EDGE_PANEL, count = head->depth - d < EDGE_PANEL ? head->depth - d : EDGE_PANEL;
    dense_sums(&runs, own->values, dense_panels(head->depth), p, high, rows, count, upper);
    dense_sums(&runs, own->values, dense_panels(head->depth), p, low, rows, count, lower);
    for (size_t r = 0; r < rows; ++r) {
      float *out = head->out + (first + r) * head->out_step + d;
      for (size_t j = 0; j < count; j += 16) {
        const size_t at = r * EDGE_PANEL + j, lanes = count - j < 16 ? count - j : 16;
        const vf sum = vf_add(vf_mul(vi_to_float(vi_load(upper + at)), vf_set(128.0f)), vi_to_float(vi_load(lower + at)));
        const vf y = vf_mul(sum, vf_mul(vf_load(own->value_step + d + j), vf_set(share[r])));
        vf_store_first(out + j, share[r] == 0.0f ? vf_set(0.0f) : y, lanes);
      }
    }
  }
}

void EDGE_SIMD(edge_qd8_attention)(const edge_attention_head *head, size_t first, size_t last) {
  size_t bytes;
  const attention_scratch own = divide(head->scratch, head->keys, head->depth, &bytes);
  pack_keys(head, &own);
  pack_values(head, &own);
  for (size_t t = first; t < last; t += QUERY_ROWS) {
    const size_t rows = last - t < QUERY_ROWS ? last - t : QUERY_ROWS;
    float share[QUERY_ROWS];
    score_queries(head, &own, t, rows);
    for (size_t r = 0; r < rows; ++r) {
      float *scores = own.scores + r * own.score_row;
      const size_t seen = head->causal && t + r + 1 < head->keys ? t + r + 1 : head->keys;
      if (head->mask != NULL) {
        const float *mask = head->mask + (t + r) * head->mask_query_step;
        for (size_t s = 0; s < seen; ++s) scores[s] += mask[s * head->mask_key_step];
      }
      share[r] = parts_of(scores, seen, own.part_row, own.high + r * own.part_row, own.low + r * own.part_row);
      if (share[r] == 0.0f) { /* all masked: the halves must be codes of some kind */
        memset(own.high + r * own.part_row, 0, own.part_row);
        memset(own.low + r * own.part_row, 0, own.part_row);
      }
    }
    mix_values(head, &own, t, rows, share);
  }
}
