/* Products of float matrices whose second factor has its columns side by side, and what is built on them: f32_gemm and
 * attention. A tile of sums stays in registers over the whole depth; each sum adds its products in order from 0. */

/* sums[r][v] = sum over i < depth of a[r * a_row + i * a_step] * b[i * b_step + 16 * v], of the last vector the first
 * `lanes` lanes. */
EDGE_INLINE void v_tile(const size_t rows, const size_t vectors, size_t depth, size_t lanes, const float *a,
                        size_t a_row, size_t a_step, const float *b, size_t b_step, vf sums[][EDGE_TILE_VECTORS]) {
  EDGE_UNROLL
  for (size_t r = 0; r < rows; ++r) {
    EDGE_UNROLL
    for (size_t v = 0; v < vectors; ++v) sums[r][v] = vf_set(0.0f);
  }
  for (size_t i = 0; i < depth; ++i) {
    vf column[EDGE_TILE_VECTORS];
    EDGE_UNROLL
    for (size_t v = 0; v + 1 < vectors; ++v) column[v] = vf_load(b + 16 * v);
    column[vectors - 1] = lanes == 16 ? vf_load(b + 16 * (vectors - 1)) : vf_load_first(b + 16 * (vectors - 1), lanes);
    EDGE_UNROLL
    for (size_t r = 0; r < rows; ++r) {
      const vf value = vf_set(a[r * a_row]);
      EDGE_UNROLL
      for (size_t v = 0; v < vectors; ++v) sums[r][v] = vf_add(sums[r][v], vf_mul(value, column[v]));
    }
    a += a_step;
    b += b_step;
  }
}

EDGE_INLINE void v_store_tile(const size_t rows, const size_t vectors, size_t depth, size_t lanes, const float *a,
                              size_t a_row, size_t a_step, const float *b, size_t b_step, float *out, size_t out_row) {
  vf sums[EDGE_TILE_ROWS][EDGE_TILE_VECTORS];
  v_tile(rows, vectors, depth, lanes, a, a_row, a_step, b, b_step, sums);
  EDGE_UNROLL
  for (size_t r = 0; r < rows; ++r) {
    EDGE_UNROLL
    for (size_t v = 0; v + 1 < vectors; ++v) vf_store(out + r * out_row + 16 * v, sums[r][v]);
    vf_store_first(out + r * out_row + 16 * (vectors - 1), sums[r][vectors - 1], lanes);
  }
}

/* out[r * out_row + n] = sum over i < depth of a[r * a_row + i * a_step] * b[i * b_step + n]. */
static void v_product(size_t rows, size_t n, size_t depth, const float *a, size_t a_row, size_t a_step, const float *b,
                      size_t b_step, float *out, size_t out_row) {
  const size_t wide = 16 * EDGE_TILE_VECTORS;
  for (size_t r = 0; r < rows; r += EDGE_TILE_ROWS) {
    const size_t count = rows - r < EDGE_TILE_ROWS ? rows - r : EDGE_TILE_ROWS;
    const float *first = a + r * a_row;
    size_t o = 0;
    for (; o + wide <= n; o += wide) {
      float *to = out + r * out_row + o;
      if (count == EDGE_TILE_ROWS) {
        v_store_tile(EDGE_TILE_ROWS, EDGE_TILE_VECTORS, depth, 16, first, a_row, a_step, b + o, b_step, to, out_row);
      } else {
        for (size_t i = 0; i < count; ++i) {
          v_store_tile(1, EDGE_TILE_VECTORS, depth, 16, first + i * a_row, a_row, a_step, b + o, b_step,
                       to + i * out_row, out_row);
        }
      }
    }
    for (; o < n; o += 16) {
      const size_t lanes = n - o < 16 ? n - o : 16;
      float *to = out + r * out_row + o;
      if (count == EDGE_TILE_ROWS) {
        v_store_tile(EDGE_TILE_ROWS, 1, depth, lanes, first, a_row, a_step, b + o, b_step, to, out_row);
      } else {
        for (size_t i = 0; i < count; ++i) {
          v_store_tile(1, 1, depth, lanes, first + i * a_row, a_row, a_step, b + o, b_step, to + i * out_row, out_row);
        }
      }
    }
  }
}

/* --- scalar/f32_gemm.c ------------------------------------------------------------------------------------------ */

static void EDGE_SIMD(gemm)(size_t rows, size_t n, size_t k, edge_matrix a, edge_matrix b, const float *bias,
                            int activation, const edge_output_view *out) {
  if (b.row_step != 1 || out->step != 1) {
    edge_f32_gemm__scalar(rows, n, k, a, b, bias, activation, out);
    return;
  }
  v_product(rows, n, k, a.data, a.row_step, a.step, b.data, b.step, out->data, out->row_step);
  if (bias == NULL && activation == EDGE_ACT_NONE && out->residual == NULL) return;
  for (size_t r = 0; r < rows; ++r) {
    for (size_t o = 0; o < n; o += 16) {
      const size_t lanes = n - o < 16 ? n - o : 16;
      float *to = out->data + r * out->row_step + o;
      vf y = vf_load_first(to, lanes);
      if (bias != NULL) y = vf_add(y, vf_load_first(bias + o, lanes));
      y = v_activate(y, activation);
      if (out->residual != NULL) y = vf_add(vf_load_first(out->residual + r * out->row_step + o, lanes), y);
      vf_store_first(to, y, lanes);
    }
  }
}

/* --- scalar/f32_attention.c ------------------------------------------------------------------------------------- */

/* Keys turned so that those of one depth lie side by side, the values close together, and one tile's scores. */
typedef struct attention_scratch {
  float *keys, *values, *scores;
  size_t key_step, value_step;
} attention_scratch;

EDGE_INLINE size_t round_up_16(size_t n) { return (n + 15) / 16 * 16; }

static size_t EDGE_SIMD(attention_scratch_bytes)(size_t keys, size_t depth) {
  return (depth * round_up_16(keys) + keys * round_up_16(depth) + EDGE_TILE_ROWS * round_up_16(keys)) * sizeof(float);
}

static attention_scratch v_turn(const edge_attention_head *head) {
  attention_scratch own = {.key_step = round_up_16(head->keys), .value_step = round_up_16(head->depth)};
  own.keys = head->scratch;
  own.values = own.keys + head->depth * own.key_step;
  own.scores = own.values + head->keys * own.value_step;
  for (size_t s = 0; s < head->keys; s += 16) {
    const size_t lanes = head->keys - s < 16 ? head->keys - s : 16;
    for (size_t d = 0; d < head->depth; d += 16) {
      const size_t deep = head->depth - d < 16 ? head->depth - d : 16;
      vf t[16];
      for (size_t l = 0; l < 16; ++l) {
        t[l] = l < lanes ? vf_load_first(head->k + (s + l) * head->k_step + d, deep) : vf_set(0.0f);
      }
      vf_turn(t);
      for (size_t i = 0; i < deep; ++i) vf_store(own.keys + (d + i) * own.key_step + s, t[i]);
    }
    for (size_t l = 0; l < lanes; ++l) {
      memcpy(own.values + (s + l) * own.value_step, head->v + (s + l) * head->v_step, head->depth * sizeof(float));
    }
  }
  return own;
}

static void v_scale_scores(const edge_attention_head *head, size_t query, size_t seen, float *scores) {
  const vf scale = vf_set(head->scale);
  for (size_t s = 0; s < seen; s += 16) vf_store(scores + s, vf_mul(vf_load(scores + s), scale));
  if (head->mask == NULL) return;
  const float *mask = head->mask + query * head->mask_query_step;
  for (size_t s = 0; s < seen; ++s) scores[s] += mask[s * head->mask_key_step];
}

static void EDGE_SIMD(attention)(const edge_attention_head *head, size_t first, size_t last) {
  const attention_scratch own = v_turn(head);
  /* Queries of a causal head see different numbers of keys, so there each is a tile of its own. */
  const size_t rows = head->causal ? 1 : EDGE_TILE_ROWS;
  for (size_t t = first; t < last; t += rows) {
    const size_t count = last - t < rows ? last - t : rows;
    const size_t seen = head->causal && t + 1 < head->keys ? t + 1 : head->keys;
    v_product(count, round_up_16(seen), head->depth, head->q + t * head->q_step, head->q_step, 1, own.keys,
              own.key_step, own.scores, own.key_step);
    for (size_t r = 0; r < count; ++r) {
      float *scores = own.scores + r * own.key_step;
      v_scale_scores(head, t + r, seen, scores);
      EDGE_SIMD(softmax)(seen, scores, scores);
    }
    v_product(count, head->depth, seen, own.scores, own.key_step, 1, own.values, own.value_step,
              head->out + t * head->out_step, head->out_step);
  }
}
