/* Products of float matrices whose second factor has its columns side by side, and what is built on them: attention
 * here, f32_gemm.h. A tile of sums stays in registers over the whole depth; each sum adds its products in order from 0. */

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

/* Columns of a tile. The second factor may lie as panels of so many columns, each panel's rows one after the other, so
 * that a tile reads memory in order and stays in the first-level cache for the tiles of the next rows. */
#define EDGE_TILE_COLUMNS (16 * EDGE_TILE_VECTORS)

typedef struct product {
  size_t depth;
  const float *a;
  size_t a_row, a_step; /* floats from one row, and one value of the depth, to the next */
  const float *b;
  size_t b_panel, b_step; /* floats from one tile's columns, and one value of the depth, to the next */
  float *out;
  size_t out_row;
} product;

EDGE_INLINE void v_tiles_of_rows(const size_t vectors, const product *p, size_t rows, size_t lanes, const float *b,
                                 float *out) {
  size_t r = 0;
  for (; r + EDGE_TILE_ROWS <= rows; r += EDGE_TILE_ROWS) {
    v_store_tile(EDGE_TILE_ROWS, vectors, p->depth, lanes, p->a + r * p->a_row, p->a_row, p->a_step, b, p->b_step,
                 out + r * p->out_row, p->out_row);
  }
  for (; r + 4 <= rows; r += 4) {
    v_store_tile(4, vectors, p->depth, lanes, p->a + r * p->a_row, p->a_row, p->a_step, b, p->b_step,
                 out + r * p->out_row, p->out_row);
  }
  for (; r < rows; ++r) {
    v_store_tile(1, vectors, p->depth, lanes, p->a + r * p->a_row, p->a_row, p->a_step, b, p->b_step,
                 out + r * p->out_row, p->out_row);
  }
}

/* out[r][n] = sum over i < depth of a[r][i] * b[i][n]. */
static void v_product(const product *p, size_t rows, size_t n) {
  for (size_t o = 0; o < n; o += EDGE_TILE_COLUMNS) {
    const float *b = p->b + o / EDGE_TILE_COLUMNS * p->b_panel;
    if (n - o >= EDGE_TILE_COLUMNS) {
      v_tiles_of_rows(EDGE_TILE_VECTORS, p, rows, 16, b, p->out + o);
      continue;
    }
    for (size_t v = 0; o + v < n; v += 16) {
      v_tiles_of_rows(1, p, rows, n - o - v < 16 ? n - o - v : 16, b + v, p->out + o + v);
    }
  }
}

/* --- scalar/f32_attention.c ------------------------------------------------------------------------------------- */

/* Queries whose scores are held: they share the reading of keys and values. */
#define EDGE_QUERY_ROWS (4 * EDGE_TILE_ROWS)

/* Keys turned so that those of one depth lie side by side, the values close together, both in panels; and scores. */
typedef struct attention_scratch {
  float *keys, *values, *scores;
  size_t score_row;
} attention_scratch;

EDGE_INLINE size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

static size_t EDGE_SIMD(attention_scratch_bytes)(size_t keys, size_t depth) {
  const size_t wide = round_up(keys, EDGE_TILE_COLUMNS);
  return (depth * wide + keys * round_up(depth, EDGE_TILE_COLUMNS) + EDGE_QUERY_ROWS * wide) * sizeof(float);
}

static attention_scratch v_turn(const edge_attention_head *head) {
  attention_scratch own = {.keys = head->scratch, .score_row = round_up(head->keys, EDGE_TILE_COLUMNS)};
  own.values = own.keys + head->depth * own.score_row;
  own.scores = own.values + head->keys * round_up(head->depth, EDGE_TILE_COLUMNS);
  for (size_t s = 0; s < own.score_row; s += 16) {
    float *panel = own.keys + s / EDGE_TILE_COLUMNS * head->depth * EDGE_TILE_COLUMNS + s % EDGE_TILE_COLUMNS;
    for (size_t d = 0; d < head->depth; d += 16) {
      const size_t deep = head->depth - d < 16 ? head->depth - d : 16;
      vf t[16];
      for (size_t l = 0; l < 16; ++l) {
        t[l] = s + l < head->keys ? vf_load_first(head->k + (s + l) * head->k_step + d, deep) : vf_set(0.0f);
      }
      vf_turn(t);
      for (size_t i = 0; i < deep; ++i) vf_store(panel + (d + i) * EDGE_TILE_COLUMNS, t[i]);
    }
  }
  for (size_t d = 0; d < head->depth; d += 16) {
    const size_t deep = head->depth - d < 16 ? head->depth - d : 16;
    float *panel = own.values + d / EDGE_TILE_COLUMNS * head->keys * EDGE_TILE_COLUMNS + d % EDGE_TILE_COLUMNS;
    for (size_t s = 0; s < head->keys; ++s) {
      vf_store(panel + s * EDGE_TILE_COLUMNS, vf_load_first(head->v + s * head->v_step + d, deep));
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
  /* Queries of a causal head see different numbers of keys, so there each is by itself. */
  const size_t rows = head->causal ? 1 : EDGE_QUERY_ROWS;
  for (size_t t = first; t < last; t += rows) {
    const size_t count = last - t < rows ? last - t : rows;
    const size_t seen = head->causal && t + 1 < head->keys ? t + 1 : head->keys;
    const product scores = {
        .depth = head->depth,
        .a = head->q + t * head->q_step,
        .a_row = head->q_step,
        .a_step = 1,
        .b = own.keys,
        .b_panel = head->depth * EDGE_TILE_COLUMNS,
        .b_step = EDGE_TILE_COLUMNS,
        .out = own.scores,
        .out_row = own.score_row,
    };
    v_product(&scores, count, round_up(seen, 16));
    for (size_t r = 0; r < count; ++r) {
      float *row = own.scores + r * own.score_row;
      v_scale_scores(head, t + r, seen, row);
      EDGE_SIMD(softmax)(seen, row, row);
    }
    const product mixed = {
        .depth = seen,
        .a = own.scores,
        .a_row = own.score_row,
        .a_step = 1,
        .b = own.values,
        .b_panel = head->keys * EDGE_TILE_COLUMNS,
        .b_step = EDGE_TILE_COLUMNS,
        .out = head->out + t * head->out_step,
        .out_row = head->out_step,
    };
    v_product(&mixed, count, head->depth);
  }
}
