/* scalar/f32_gemm.c over the tiles of f32_product.h. */

/* Values of the depth of which a second factor that lies row by row is turned at a time: sixteen kilobytes. */
#define TURNED_DEPTH 256

/* Adds to sums[r][0], sixteen outputs of some rows, the products of `depth` values. */
EDGE_INLINE void add_turned(const size_t rows, size_t depth, size_t lanes, bool first, const edge_matrix *a,
                            const float *panel, float *out, size_t out_row) {
  vf sums[EDGE_TILE_ROWS];
  EDGE_UNROLL
  for (size_t r = 0; r < rows; ++r) sums[r] = first ? vf_set(0.0f) : vf_load_first(out + r * out_row, lanes);
  const float *value = a->data;
  for (size_t i = 0; i < depth; ++i, value += a->step, panel += 16) {
    const vf column = vf_load(panel);
    EDGE_UNROLL
    for (size_t r = 0; r < rows; ++r) sums[r] = vf_add(sums[r], vf_mul(vf_set(value[r * a->row_step]), column));
  }
  EDGE_UNROLL
  for (size_t r = 0; r < rows; ++r) vf_store_first(out + r * out_row, sums[r], lanes);
}

/* Products with a second factor whose depth lies side by side, as the weights of a linear do. */
static void v_product_of_rows(size_t rows, size_t n, size_t k, edge_matrix a, edge_matrix b, float *out,
                              size_t out_row) {
  float panel[TURNED_DEPTH * 16];
  for (size_t o = 0; o < n; o += 16) {
    const size_t lanes = n - o < 16 ? n - o : 16;
    for (size_t begin = 0; begin < k || begin == 0; begin += TURNED_DEPTH) {
      const size_t depth = k - begin < TURNED_DEPTH ? k - begin : TURNED_DEPTH;
      for (size_t i = 0; i < depth; i += 16) {
        const size_t deep = depth - i < 16 ? depth - i : 16;
        vf t[16];
        for (size_t l = 0; l < 16; ++l) {
          t[l] = l < lanes ? vf_load_first(b.data + (o + l) * b.row_step + begin + i, deep) : vf_set(0.0f);
        }
        vf_turn(t);
        for (size_t j = 0; j < deep; ++j) vf_store(panel + (i + j) * 16, t[j]);
      }
      edge_matrix left = {a.data + begin * a.step, a.row_step, a.step};
      size_t r = 0;
      for (; r + EDGE_TILE_ROWS <= rows; r += EDGE_TILE_ROWS, left.data += EDGE_TILE_ROWS * a.row_step) {
        add_turned(EDGE_TILE_ROWS, depth, lanes, begin == 0, &left, panel, out + r * out_row + o, out_row);
      }
      for (; r < rows; ++r, left.data += a.row_step) {
        add_turned(1, depth, lanes, begin == 0, &left, panel, out + r * out_row + o, out_row);
      }
    }
  }
}

static void EDGE_SIMD(gemm)(size_t rows, size_t n, size_t k, edge_matrix a, edge_matrix b, const float *bias,
                            int activation, const edge_output_view *out) {
  if ((b.row_step != 1 && b.step != 1) || out->step != 1) {
    edge_f32_gemm__scalar(rows, n, k, a, b, bias, activation, out);
    return;
  }
  if (b.row_step == 1) {
    const product p = {k, a.data, a.row_step, a.step, b.data, EDGE_TILE_COLUMNS, b.step, out->data, out->row_step};
    v_product(&p, rows, n);
  } else {
    v_product_of_rows(rows, n, k, a, b, out->data, out->row_step);
  }
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
