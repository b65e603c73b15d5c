/* scalar/qd8_attention.c over sixteen lanes: scores are a product of the queries' codes with the keys', outputs one of
 * the parts with the values' codes.
 *
 * The second factor of both lies as panels, each of a tile's outputs, in steps: for each step four bytes an output,
 * four values of one byte or two of 16 bits. A row of the first factor has the same four bytes for a step.
 *
 * The file that includes this defines before
 *   KEY_STEP           codes of the depth in a step of the first product, 4 or 2
 *   PART_STEP          keys in a step of the second: 2, or 4 where the two halves of the parts, of seven bits, are
 *                      multiplied one after the other
 *   HEAD_ROWS, HEAD_VECTORS   queries, and vectors of sixteen outputs, of a tile
 * and has, where a step is of four, vi_add_quads(sum, values, four): the sum of the four products in every lane.
 */

/* Queries at a time: whole tiles, and scores that stay in the nearest cache. */
#define QUERY_ROWS 24
#define HEAD_OUTPUTS (16 * HEAD_VECTORS)
#define STEP_BYTES (HEAD_OUTPUTS * 4)

#if KEY_STEP == 4
#define ADD_CODES vi_add_quads
#define AS_CODES vf_as_quads
#else
#define ADD_CODES vi_add_twos
#define AS_CODES vf_as_twos
#endif
#if PART_STEP == 4
#define ADD_PARTS vi_add_quads
#else
#define ADD_PARTS vi_add_twos
#endif

EDGE_INLINE size_t whole(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

typedef struct attention_scratch {
  char *keys, *values;          /* panels */
  int32_t *key_start;           /* what the sums of a key's codes start from */
  float *key_step, *value_step; /* 1 / scale */
  float *scores;
  char *codes, *parts; /* rows of sixteen keys, then of the queries; of the queries */
  size_t key_panel, value_panel, score_row, code_row, part_row; /* bytes; of scores floats */
} attention_scratch;

EDGE_INLINE attention_scratch divide(void *memory, size_t keys, size_t depth, size_t *bytes) {
  attention_scratch own = {
      .key_panel = whole(depth, 4) / KEY_STEP * STEP_BYTES,
      .value_panel = whole(keys, 32) / PART_STEP * STEP_BYTES,
      .score_row = whole(keys, 64),
      .code_row = whole(depth, 64) * 4 / KEY_STEP,
      .part_row = whole(keys, 32) * sizeof(int16_t),
  };
  char *at = memory;
  own.keys = at;
  at += whole(keys, HEAD_OUTPUTS) / HEAD_OUTPUTS * own.key_panel;
  own.values = at;
  at += whole(depth, HEAD_OUTPUTS) / HEAD_OUTPUTS * own.value_panel;
  own.key_start = (int32_t *)at;
  at += own.score_row * sizeof(int32_t);
  own.key_step = (float *)at;
  at += own.score_row * sizeof(float);
  own.value_step = (float *)at;
  at += whole(depth, 16) * sizeof(float);
  own.scores = (float *)at;
  at += QUERY_ROWS * own.score_row * sizeof(float);
  own.codes = at;
  at += QUERY_ROWS * own.code_row;
  own.parts = at;
  at += QUERY_ROWS * own.part_row;
  *bytes = (size_t)(at - (char *)memory);
  return own;
}

size_t EDGE_SIMD(edge_qd8_attention_scratch)(size_t keys, size_t depth) {
  static char nowhere[1]; /* sizes only */
  size_t bytes;
  divide(nowhere, keys, depth, &bytes);
  return bytes;
}

EDGE_INLINE vf larger_of_token(const float *x, size_t depth) {
  vf largest = vf_set(1e-5f);
  size_t i = 0;
  for (; i + 16 <= depth; i += 16) largest = vf_larger(vf_abs(vf_load(x + i)), largest);
  return i < depth ? vf_larger(vf_abs(vf_load_first(x + i, depth - i)), largest) : largest;
}

/* Codes of some tokens, at most sixteen, as rows with zeros behind; and sixteen times 1 / scale. */
static void token_codes(const float *x, size_t step, size_t tokens, size_t depth, char *rows, float *steps) {
  vf lane[16];
  for (size_t t = 0; t < 16; ++t) lane[t] = t < tokens ? larger_of_token(x + t * step, depth) : vf_set(1e-5f);
  vf_turn(lane);
  vf largest = lane[0];
  for (size_t t = 1; t < 16; ++t) largest = vf_larger(lane[t], largest);
  const vf scale = vf_mul(vf_div(vf_set(1.0f), largest), vf_set(127.0f));
  float scales[16];
  vf_store(scales, scale);
  vf_store(steps, vf_div(vf_set(1.0f), scale));
  for (size_t t = 0; t < tokens; ++t, x += step) {
    const vf own = vf_set(scales[t]);
    for (size_t i = 0; i < depth; i += 64, rows += 64 * 4 / KEY_STEP) {
      int8_t bytes[64], *codes = KEY_STEP == 4 ? (int8_t *)rows : bytes;
      if (depth - i >= 64) {
        vf_store_64_codes(codes, vf_mul(vf_load(x + i), own), vf_mul(vf_load(x + i + 16), own),
                          vf_mul(vf_load(x + i + 32), own), vf_mul(vf_load(x + i + 48), own));
      } else {
        for (size_t j = 0; j < 64; j += 16) {
          const size_t lanes = depth - i > j ? depth - i - j < 16 ? depth - i - j : 16 : 0;
          vi_store_codes(codes + j, v_code_within(vf_load_first(x + i + j, lanes), own));
        }
      }
#if KEY_STEP == 2
      vs_store((int16_t *)rows, vs_load_codes(codes));
      vs_store((int16_t *)rows + 32, vs_load_codes(codes + 32));
#endif
    }
  }
}

/* Sixteen keys at a time: the four bytes of a step move as one float does. */
static void pack_keys(const edge_attention_head *head, const attention_scratch *own) {
  for (size_t s = 0; s < head->keys; s += 16) {
    char *panel = own->keys + s / HEAD_OUTPUTS * own->key_panel + s % HEAD_OUTPUTS * 4;
    const size_t tokens = head->keys - s < 16 ? head->keys - s : 16, steps = own->key_panel / STEP_BYTES;
    token_codes(head->k + s * head->k_step, head->k_step, tokens, head->depth, own->codes, own->key_step + s);
    memset(own->codes + tokens * own->code_row, 0, (16 - tokens) * own->code_row);
    vi offset = vi_set(0); /* what the product makes of zeros */
    for (size_t q = 0; q < steps; q += 16) {
      vf step[16];
      for (size_t i = 0; i < 16; ++i) step[i] = vf_load((const float *)(own->codes + i * own->code_row) + q);
      vf_turn(step);
      for (size_t i = 0; i < 16 && q + i < steps; ++i, panel += STEP_BYTES) {
        const vs codes = AS_CODES(step[i]);
        vs_store((int16_t *)panel, codes);
        offset = ADD_CODES(offset, codes, vs_set(0));
      }
    }
    vi_store(own->key_start + s, vi_sub(vi_set(0), offset));
  }
}

static void pack_values(const edge_attention_head *head, const attention_scratch *own) {
  for (size_t d = 0; d < head->depth; d += 16) {
    const size_t lanes = head->depth - d < 16 ? head->depth - d : 16;
    char *panel = own->values + d / HEAD_OUTPUTS * own->value_panel + d % HEAD_OUTPUTS * 4;
    vf largest = vf_set(1e-5f);
    for (size_t s = 0; s < head->keys; ++s) {
      largest = vf_larger(vf_abs(vf_load_first(head->v + s * head->v_step + d, lanes)), largest);
    }
    const vf scale = vf_mul(vf_div(vf_set(1.0f), largest), vf_set(127.0f));
    vf_store(own->value_step + d, vf_div(vf_set(1.0f), scale));
    for (size_t s = 0; s < whole(head->keys, 32); s += 4) {
      vi code[4];
      for (size_t i = 0; i < 4; ++i) {
        code[i] = vi_set(0);
        if (s + i < head->keys) {
          code[i] = v_code_within(vf_load_first(head->v + (s + i) * head->v_step + d, lanes), scale);
        }
      }
      char *to = panel + s / PART_STEP * STEP_BYTES;
#if PART_STEP == 4
      vi_store_quads((int8_t *)to, code[0], code[1], code[2], code[3]);
#else
      vi_store_twos((int16_t *)to, code[0], code[1]);
      vi_store_twos((int16_t *)(to + STEP_BYTES), code[2], code[3]);
#endif
    }
  }
}

/* Adds to the sums of a tile: of rows `row_bytes` apart and of 16 * vectors outputs of a panel. */
#define ADD_STEPS(add, rows, vectors, steps, row, row_bytes, panel, sum)                            \
  do {                                                                                              \
    const char *at = row, *from = panel;                                                            \
    for (size_t q = 0; q < (steps); ++q, at += 4, from += STEP_BYTES) {                             \
      vs value[HEAD_VECTORS];                                                                       \
      EDGE_UNROLL                                                                                   \
      for (size_t v = 0; v < (vectors); ++v) value[v] = vs_load((const int16_t *)(from + 64 * v));  \
      EDGE_UNROLL                                                                                   \
      for (size_t r = 0; r < (rows); ++r) {                                                         \
        const vs four = vs_four_bytes(at + r * (row_bytes));                                        \
        EDGE_UNROLL                                                                                 \
        for (size_t v = 0; v < (vectors); ++v) sum[r][v] = add(sum[r][v], value[v], four);          \
      }                                                                                             \
    }                                                                                               \
  } while (0)

/* A tile of either product: from row `row` of the queries held, and output `at` on. */
typedef struct tile {
  const edge_attention_head *head;
  const attention_scratch *own;
  size_t row, at;
  const float *factor; /* of the row: of scores scale / s_q, of outputs 1 / the sum of the parts */
  vf *top;             /* of scores: the largest so far, of each row */
  size_t key, keys;    /* of outputs: the block */
  bool last;           /* block */
  size_t lanes;        /* of the last vector */
  float *out;
} tile;

EDGE_INLINE void score_tile(const size_t rows, const size_t vectors, const tile *t) {
  const attention_scratch *own = t->own;
  const char *panel = own->keys + t->at / HEAD_OUTPUTS * own->key_panel + t->at % HEAD_OUTPUTS * 4;
  const size_t steps = own->key_panel / STEP_BYTES, code_row = own->code_row;
  vi sum[HEAD_ROWS][HEAD_VECTORS];
  EDGE_UNROLL
  for (size_t r = 0; r < rows; ++r) {
    EDGE_UNROLL
    for (size_t v = 0; v < vectors; ++v) sum[r][v] = vi_load(own->key_start + t->at + 16 * v);
  }
  ADD_STEPS(ADD_CODES, rows, vectors, steps, own->codes + t->row * code_row, code_row, panel, sum);
  float *scores = own->scores + t->row * own->score_row + t->at;
  EDGE_UNROLL
  for (size_t r = 0; r < rows; ++r) {
    vf top = t->top[r];
    EDGE_UNROLL
    for (size_t v = 0; v < vectors; ++v) {
      const vf dot = vf_mul(vi_to_float(sum[r][v]), vf_set(t->factor[r]));
      const vf score = vf_mul(dot, vf_load(own->key_step + t->at + 16 * v));
      vf_store(scores + r * own->score_row + 16 * v, score);
      top = vf_larger(score, top);
    }
    t->top[r] = top;
  }
}

EDGE_INLINE void mix_tile(const size_t rows, const size_t vectors, const tile *t) {
  const attention_scratch *own = t->own;
  const char *panel = own->values + t->at / HEAD_OUTPUTS * own->value_panel + t->at % HEAD_OUTPUTS * 4 +
                      t->key / PART_STEP * STEP_BYTES;
  const char *parts = own->parts + t->row * own->part_row + t->key * 4 / PART_STEP;
  const size_t steps = t->keys / PART_STEP, part_row = own->part_row;
  vi sum[HEAD_ROWS][HEAD_VECTORS];
  EDGE_UNROLL
  for (size_t r = 0; r < rows; ++r) {
    EDGE_UNROLL
    for (size_t v = 0; v < vectors; ++v) sum[r][v] = vi_set(0);
  }
  ADD_STEPS(ADD_PARTS, rows, vectors, steps, parts, part_row, panel, sum);
#if PART_STEP == 4
  EDGE_UNROLL
  for (size_t r = 0; r < rows; ++r) {
    EDGE_UNROLL
    for (size_t v = 0; v < vectors; ++v) sum[r][v] = vi_mul(sum[r][v], vi_set(128));
  }
  ADD_STEPS(ADD_PARTS, rows, vectors, steps, parts + part_row / 2, part_row, panel, sum);
#endif
  EDGE_UNROLL
  for (size_t r = 0; r < rows; ++r) {
    EDGE_UNROLL
    for (size_t v = 0; v < vectors; ++v) {
      float *out = t->out + r * t->head->out_step + 16 * v;
      const float share = t->factor[r];
      vf y = vi_to_float(sum[r][v]);
      if (t->key > 0) y = vf_add(vf_load_first(out, t->lanes), y);
      if (t->last) y = vf_mul(y, vf_mul(vf_load(own->value_step + t->at + 16 * v), vf_set(share)));
      if (share == 0.0f) y = vf_set(0.0f);
      vf_store_first(out, y, t->lanes);
    }
  }
}

/* The tiles that there are, each a call of its own. */
typedef void tile_fn(const tile *);
#define EDGE_TILES(kind)                                                                    \
  EDGE_APART void kind##_full(const tile *t) { kind##_tile(HEAD_ROWS, HEAD_VECTORS, t); }   \
  EDGE_APART void kind##_narrow(const tile *t) { kind##_tile(HEAD_ROWS, 1, t); }            \
  EDGE_APART void kind##_row(const tile *t) { kind##_tile(1, HEAD_VECTORS, t); }            \
  EDGE_APART void kind##_least(const tile *t) { kind##_tile(1, 1, t); }
EDGE_TILES(score)
EDGE_TILES(mix)
#undef EDGE_TILES

/* Sixteen of a query's mask, from `key` on. */
EDGE_INLINE vf mask_of(const edge_attention_head *head, size_t query, size_t key, size_t lanes) {
  const float *mask = head->mask + query * head->mask_query_step + key * head->mask_key_step;
  if (head->mask_key_step == 1) return vf_load_first(mask, lanes);
  float own[16] = {0};
  for (size_t i = 0; i < lanes; ++i) own[i] = mask[i * head->mask_key_step];
  return vf_load(own);
}

/* What tiles of scores leave out: the mask, and -inf for the keys that are not seen. Returns the largest. */
static float mask_scores(const edge_attention_head *head, size_t query, size_t seen, size_t keys, float *scores) {
  vf top = vf_set(-INFINITY);
  for (size_t s = 0; s < keys; s += 16) {
    vf score = vf_set(-INFINITY);
    if (s < seen) {
      const size_t lanes = seen - s < 16 ? seen - s : 16;
      score = vf_load(scores + s);
      if (head->mask != NULL) score = vf_add(score, mask_of(head, query, s, lanes));
      score = vf_select(vm_first(lanes), score, vf_set(-INFINITY));
    }
    top = vf_larger(score, top);
    vf_store(scores + s, score);
  }
  return vf_largest(top);
}

/* Scores of some queries up to a multiple of 32 keys, and the largest of each. */
static void score_queries(const edge_attention_head *head, const attention_scratch *own, size_t first, size_t rows,
                          size_t keys, float *max) {
  float factor[QUERY_ROWS + 15];
  vf top[QUERY_ROWS];
  for (size_t r = 0; r < rows; r += 16) {
    token_codes(head->q + (first + r) * head->q_step, head->q_step, rows - r < 16 ? rows - r : 16, head->depth,
                own->codes + r * own->code_row, factor + r);
  }
  for (size_t r = 0; r < rows; ++r) {
    factor[r] *= head->scale;
    top[r] = vf_set(-INFINITY);
  }
  for (size_t key = 0, vectors; key < keys; key += 16 * vectors) {
    vectors = whole(keys, 16) - key < 16 * HEAD_VECTORS ? 1 : HEAD_VECTORS;
    for (size_t r = 0, some; r < rows; r += some) {
      some = rows - r < HEAD_ROWS ? 1 : HEAD_ROWS;
      const tile t = {.head = head, .own = own, .row = r, .at = key, .factor = factor + r, .top = top + r};
      tile_fn *run = some == HEAD_ROWS ? vectors == HEAD_VECTORS ? score_full : score_narrow
                     : vectors == HEAD_VECTORS ? score_row : score_least;
      run(&t);
    }
  }
  for (size_t r = 0; r < rows; ++r) {
    const size_t seen = head->causal && first + r < keys ? first + r + 1 : keys;
    const bool plain = head->mask == NULL && seen % 32 == 0 && seen == keys;
    max[r] = plain ? vf_largest(top[r])
                   : mask_scores(head, first + r, seen, whole(keys, 32), own->scores + r * own->score_row);
  }
}

/* Of sixteen scores: how far they lie below the largest, in 1/4096 octaves. */
EDGE_INLINE vi octaves_of(vf score, vf max) {
  const vf octaves = vf_mul(vf_sub(max, score), vf_set(5909.279f));
  return vf_to_int(vf_smaller(octaves, vf_set(61439.0f))); /* of two, the second where the first is NaN */
}

/* The parts of a row of scores; returns their sum. */
static int32_t parts_of(const float *scores, size_t keys, float max, char *row, size_t row_bytes) {
  const vf top = vf_set(max);
  vi sum = vi_set(0);
  for (size_t s = 0; s < keys; s += 32) {
    const vs t = vi_narrow(octaves_of(vf_load(scores + s), top), octaves_of(vf_load(scores + s + 16), top));
    const vs fraction = vs_and(vs_left(t, 3), vs_set(32767));
    vs p = vs_add(vs_mul(vs_set(-1273), fraction), vs_set(7494));
    p = vs_add(vs_mul(p, fraction), vs_set(-22478));
    p = vs_add(vs_mul(p, fraction), vs_set(2 * EDGE_ATTENTION_ONE));
    const vs part = vs_halved(p, vs_right(t, 12));
    sum = vi_add_twos(sum, part, vs_set(1));
#if PART_STEP == 4
    vs_store_codes((int8_t *)row + s, vs_right(part, 7));
    vs_store_codes((int8_t *)row + row_bytes / 2 + s, vs_and(part, vs_set(127)));
#else
    (void)row_bytes;
    vs_store((int16_t *)row + s, part);
#endif
  }
  return vi_fold(sum);
}

static void mix_values(const edge_attention_head *head, const attention_scratch *own, size_t rows, size_t keys,
                       float *out, const float *share) {
  for (size_t d = 0, vectors; d < head->depth; d += 16 * vectors) {
    const size_t rest = head->depth - d;
    vectors = rest < 16 * HEAD_VECTORS ? 1 : HEAD_VECTORS;
    for (size_t r = 0, some; r < rows; r += some) {
      some = rows - r < HEAD_ROWS ? 1 : HEAD_ROWS;
      tile t = {.head = head, .own = own, .row = r, .at = d, .factor = share + r, .lanes = rest < 16 ? rest : 16,
                .out = out + r * head->out_step + d};
      tile_fn *run = some == HEAD_ROWS ? vectors == HEAD_VECTORS ? mix_full : mix_narrow
                     : vectors == HEAD_VECTORS ? mix_row : mix_least;
      for (; t.key < keys; t.key += EDGE_ATTENTION_BLOCK) {
        t.last = keys - t.key <= EDGE_ATTENTION_BLOCK;
        t.keys = t.last ? keys - t.key : EDGE_ATTENTION_BLOCK;
        run(&t);
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
    /* What the last of these queries sees. */
    const size_t keys = head->causal && t + rows < head->keys ? t + rows : head->keys;
    float max[QUERY_ROWS], share[QUERY_ROWS];
    score_queries(head, &own, t, rows, keys, max);
    for (size_t r = 0; r < rows; ++r) {
      const int32_t sum = parts_of(own.scores + r * own.score_row, keys, max[r], own.parts + r * own.part_row,
                                   own.part_row);
      share[r] = max[r] == -INFINITY ? 0.0f : 1.0f / (float)sum; /* 0: all masked */
    }
    mix_values(head, &own, rows, whole(keys, 32), head->out + t * head->out_step, share);
  }
}
