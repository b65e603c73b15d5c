/* A block of a convolution's outputs whose channels come first: row_step is 1. */

/* Adds the residual to done[r * EDGE_PANEL + j], of `rows` pixels and `count` channels from `first` on, and stores. */
static void v_store_planes(const edge_output_view *out, size_t rows, size_t first, size_t count, const float *done) {
  for (size_t r = 0; r < rows; r += 16) {
    const size_t lanes = rows - r < 16 ? rows - r : 16;
    for (size_t j = 0; j < count; j += 16) {
      vf t[16];
      for (size_t i = 0; i < 16; ++i) t[i] = vf_load(done + (r + (i < lanes ? i : 0)) * EDGE_PANEL + j);
      vf_turn(t);
      for (size_t i = 0; i < 16 && j + i < count; ++i) {
        const size_t to = (first + j + i) * out->step + r;
        if (out->residual != NULL) t[i] = vf_add(vf_load_first(out->residual + to, lanes), t[i]);
        vf_store_first(out->data + to, t[i], lanes);
      }
    }
  }
}
