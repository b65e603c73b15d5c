/* The GEMM of 8- and 4-bit weights over simd/qd8_dense.h. */

size_t EDGE_SIMD(edge_qd8_f32_qc8w_packed_bytes)(size_t n, size_t k) {
  const dense_runs runs = one_run(k);
  return dense_bytes(&runs, n);
}

size_t EDGE_SIMD(edge_qd8_f32_qc4w_packed_bytes)(size_t n, size_t k) {
  return EDGE_SIMD(edge_qd8_f32_qc8w_packed_bytes)(n, k);
}

void EDGE_SIMD(edge_qd8_f32_qc8w_pack)(size_t n, size_t k, const uint8_t *weight, void *packed) {
  const dense_runs runs = one_run(k);
  memset(packed, 0, dense_bytes(&runs, n));
  for (size_t o = 0; o < n; ++o) {
    for (size_t i = 0; i < k; ++i) dense_put(&runs, packed, dense_panels(n), o, 0, i, (int8_t)*weight++);
  }
}

/* As 8-bit weights: twice the bytes, and no work left for the run. The zero point of 4 bits is always 8. */
void EDGE_SIMD(edge_qd8_f32_qc4w_pack)(size_t n, size_t k, const uint8_t *weight, void *packed) {
  const dense_runs runs = one_run(k);
  memset(packed, 0, dense_bytes(&runs, n));
  for (size_t o = 0; o < n; ++o, weight += (k + 1) / 2) {
    for (size_t i = 0; i < k; ++i) {
      const int code = i % 2 == 0 ? weight[i / 2] & 15 : weight[i / 2] >> 4;
      dense_put(&runs, packed, dense_panels(n), o, 0, i, (int8_t)(code - 8));
    }
  }
}

void EDGE_SIMD(edge_qd8_f32_qc8w_gemm)(const edge_qd8_gemm *gemm, size_t first, size_t last) {
  const dense_runs runs = one_run(gemm->k);
  const int8_t *row[EDGE_ROW_BLOCK];
  for (size_t r = 0; r < gemm->rows; ++r) row[r] = gemm->codes + r * gemm->padded;
  for (size_t o = first; o < last; o += EDGE_PANEL) {
    _Alignas(64) int32_t sums[EDGE_ROW_BLOCK * EDGE_PANEL];
    const size_t count = last - o < EDGE_PANEL ? last - o : EDGE_PANEL;
    dense_sums(&runs, gemm->weight, dense_panels(gemm->n), o / EDGE_PANEL, row, gemm->rows, count, sums);
    v_finish(gemm, sums, 0, o, count);
  }
}

void EDGE_SIMD(edge_qd8_f32_qc4w_gemm)(const edge_qd8_gemm *gemm, size_t first, size_t last) {
  EDGE_SIMD(edge_qd8_f32_qc8w_gemm)(gemm, first, last);
}
