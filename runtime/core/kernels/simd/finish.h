/* scalar/epilogue.h over sixteen lanes: from a block of exact sums to outputs. */

/* y[r][j] for the output first + j, sixteen of them (`lanes` that exist), before the residual. */
EDGE_INLINE vf v_dequantize(vi sum, vf scale, vf bias, float row_scale, const edge_epilogue *epilogue) {
  vf y = vi_to_float(sum);
  if (epilogue->bitlinear_compat) {
    if (epilogue->bias != NULL) y = vf_add(y, bias);
    y = vf_div(y, vf_mul(scale, vf_set(row_scale)));
  } else {
    y = vf_mul(y, epilogue->scale_step == 0 ? vf_set(epilogue->scales[0] / row_scale)
                                            : vf_div(scale, vf_set(row_scale)));
    if (epilogue->bias != NULL) y = vf_add(y, bias);
  }
  return v_activate(y, epilogue->activation);
}

/* Finishes sums[r * EDGE_PANEL + j], of gemm->rows rows and `count` outputs from `first` on; overwrites the sums. */
static void v_finish(const edge_qd8_gemm *gemm, int32_t *sums, int zero_point, size_t first, size_t count) {
  const edge_epilogue *epilogue = &gemm->epilogue;
  const edge_output_view *out = &gemm->out;
  const vf plain = vf_set(epilogue->scales[0]);
  for (size_t j = 0; j < count; j += 16) {
    const size_t lanes = count - j < 16 ? count - j : 16;
    const vf scale = epilogue->scale_step ? vf_load_first(epilogue->scales + first + j, lanes) : plain;
    const vf bias = epilogue->bias != NULL ? vf_load_first(epilogue->bias + first + j, lanes) : vf_set(0.0f);
    for (size_t r = 0; r < gemm->rows; ++r) {
      int32_t *at = sums + r * EDGE_PANEL + j;
      const vi exact = vi_sub(vi_load(at), vi_set(zero_point * gemm->row[r].sum));
      vf y = v_dequantize(exact, scale, bias, gemm->row[r].scale, epilogue);
      if (out->step != 1) {
        vf_store((float *)at, y);
        continue;
      }
      const size_t to = r * out->row_step + first + j;
      if (out->residual != NULL) y = vf_add(vf_load_first(out->residual + to, lanes), y);
      vf_store_first(out->data + to, y, lanes);
    }
  }
  if (out->step == 1) return;
  /* A convolution's: those of one channel lie side by side, row_step is 1. */
  const float *done = (const float *)sums;
  for (size_t r = 0; r < gemm->rows; r += 16) {
    const size_t lanes = gemm->rows - r < 16 ? gemm->rows - r : 16;
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
