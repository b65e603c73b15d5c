/* scalar/epilogue.h over sixteen lanes: from a block of exact sums to outputs. */
#include "kernels/simd/planes.h"

/* y[r][j] for the output first + j, sixteen of them, before the activation and the residual. */
EDGE_INLINE vf v_dequantize(vi sum, vf scale, vf bias, const edge_row *row, const edge_epilogue *epilogue,
                            const bool bitlinear_compat) {
  vf y = vi_to_float(sum);
  if (bitlinear_compat) {
    if (epilogue->bias != NULL) y = vf_add(y, bias);
    return vf_div(y, vf_mul(scale, vf_set(row->scale)));
  }
  y = vf_mul(y, vf_mul(scale, vf_set(row->step)));
  return epilogue->bias != NULL ? vf_add(y, bias) : y;
}

/* Sixteen outputs from `first` on, of which `lanes` exist, of all rows. `activation` is a constant where the loop should
 * not choose it anew for each vector; `plain` (a constant) are the outputs of a linear, all sixteen of them, without
 * bitlinear_compat, as most are: the rest would take this loop's registers. */
EDGE_INLINE void v_finish_sixteen(const edge_qd8_gemm *gemm, int32_t *sums, int zero_point, size_t first, size_t lanes,
                                  int activation, const bool plain) {
  const edge_epilogue epilogue = gemm->epilogue;
  const edge_output_view out = gemm->out;
  const size_t rows = gemm->rows;
  const vf scale = epilogue.scale_step ? vf_load_first(epilogue.scales + first, lanes) : vf_set(epilogue.scales[0]);
  const vf bias = epilogue.bias != NULL ? vf_load_first(epilogue.bias + first, lanes) : vf_set(0.0f);
  const edge_row *row = gemm->row;
  size_t to = first;
  for (size_t r = 0; r < rows; ++r, ++row, sums += EDGE_PANEL, to += out.row_step) {
    const vi exact = vi_sub(vi_load(sums), vi_set(zero_point * row->sum));
    vf y = v_dequantize(exact, scale, bias, row, &epilogue, !plain && epilogue.bitlinear_compat);
    y = v_activate(y, activation);
    if (!plain && out.step != 1) {
      vf_store((float *)sums, y);
      continue;
    }
    if (out.residual != NULL) y = vf_add(vf_load_first(out.residual + to, plain ? 16 : lanes), y);
    vf_store_first(out.data + to, y, plain ? 16 : lanes);
  }
}

/* Finishes sums[r * EDGE_PANEL + j], of gemm->rows rows and `count` outputs from `first` on; overwrites the sums. */
static void v_finish(const edge_qd8_gemm *gemm, int32_t *sums, int zero_point, size_t first, size_t count) {
  const edge_output_view *out = &gemm->out;
  const int activation = gemm->epilogue.activation;
  const bool plain = !gemm->epilogue.bitlinear_compat && out->step == 1;
  for (size_t j = 0; j < count; j += 16) {
    const size_t lanes = count - j < 16 ? count - j : 16;
    if (plain && lanes == 16 && activation == EDGE_ACT_NONE) {
      v_finish_sixteen(gemm, sums + j, zero_point, first + j, 16, EDGE_ACT_NONE, true);
    } else if (plain && lanes == 16 && activation == EDGE_ACT_RELU) {
      v_finish_sixteen(gemm, sums + j, zero_point, first + j, 16, EDGE_ACT_RELU, true);
    } else if (plain && lanes == 16 && activation == EDGE_ACT_GELU_ERF) {
      v_finish_sixteen(gemm, sums + j, zero_point, first + j, 16, EDGE_ACT_GELU_ERF, true);
    } else {
      v_finish_sixteen(gemm, sums + j, zero_point, first + j, lanes, activation, false);
    }
  }
  if (out->step == 1) return;
  v_store_planes(out, gemm->rows, first, count, (const float *)sums);
}
