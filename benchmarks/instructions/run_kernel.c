/* Runs one kernel on random data, some number of times: run_kernel ISA KERNEL ROWS K N TIMES.
 *
 * KERNEL is qd8_f32_qc2w, qd8_f32_qc4w, qd8_f32_qc8w (ROWS x K times K x N, a scale and a bias an output) or
 * f32_qd8_quantize (ROWS rows of K values, up to 16, normalized). Status 2: this machine has no such instructions.
 */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"

static void *room(size_t bytes) {
  void *memory = NULL;
  if (posix_memalign(&memory, 64, bytes + 1) != 0) exit(1);
  return memset(memory, 0, bytes + 1);
}

static void run_gemm(const edge_qd8_weights *kernel, int bits, size_t rows, size_t k, size_t n, size_t times) {
  const size_t padded = (k + EDGE_ROW_ALIGN - 1) / EDGE_ROW_ALIGN * EDGE_ROW_ALIGN, bytes = (k * (size_t)bits + 7) / 8;
  int8_t *codes = room(rows * padded);
  edge_row *row = room(rows * sizeof(edge_row));
  uint8_t *weight = room(n * bytes);
  float *scales = room(n * sizeof(float)), *bias = room(n * sizeof(float));
  for (size_t i = 0; i < n * bytes; ++i) weight[i] = (uint8_t)(rand() >> 8);
  for (size_t r = 0; r < rows; ++r) {
    row[r].scale = 12.7f;
    row[r].step = 1.0f / 12.7f;
    for (size_t i = 0; i < k; ++i) row[r].sum += codes[r * padded + i] = (int8_t)(rand() % 255 - 127);
  }
  for (size_t i = 0; i < n; ++i) scales[i] = bias[i] = 0.01f * (float)(1 + i);
  edge_qd8_gemm gemm = {.rows = rows, .n = n, .k = k, .padded = padded, .codes = codes, .row = row, .weight = weight};
  gemm.zero_point = bits == 2 ? 1 : 8;
  gemm.epilogue = (edge_epilogue){.scales = scales, .scale_step = 1, .bias = bias};
  gemm.out = (edge_output_view){.data = room(rows * n * sizeof(float)), .row_step = n, .step = 1};
  if (kernel->packed_bytes != NULL) {
    void *packed = room(kernel->packed_bytes(n, k));
    kernel->pack(n, k, weight, packed);
    gemm.weight = packed;
  }
  for (size_t i = 0; i < times; ++i) {
    for (size_t r = 0; r < rows; r += EDGE_ROW_BLOCK) { /* as ops/quantized_linear.c calls it */
      edge_qd8_gemm block = gemm;
      block.rows = rows - r < EDGE_ROW_BLOCK ? rows - r : EDGE_ROW_BLOCK;
      block.codes += r * padded;
      block.row += r;
      block.out.data += r * n;
      kernel->run(&block, 0, n);
    }
  }
}

static void run_quantize(edge_quantize_rows_fn kernel, size_t rows, size_t k, size_t times) {
  float *x = room(rows * k * sizeof(float));
  int8_t *codes = room(rows * k);
  edge_row row[EDGE_TOKEN_BLOCK];
  for (size_t i = 0; i < rows * k; ++i) x[i] = (float)(rand() % 2001 - 1000) * 0.001f;
  for (size_t i = 0; i < times; ++i) kernel(rows, k, x, 1e-5f, false, k, codes, row);
}

int main(int count, char **words) {
  if (count != 7) return 1;
  const edge_kernels *kernels = edge_kernels_named(words[1]);
  if (kernels == NULL) return 2;
  const char *kernel = words[2];
  const size_t rows = strtoul(words[3], NULL, 10), k = strtoul(words[4], NULL, 10), n = strtoul(words[5], NULL, 10);
  const size_t times = strtoul(words[6], NULL, 10);
  if (strcmp(kernel, "qd8_f32_qc2w") == 0) run_gemm(&kernels->qd8_f32_qc2w, 2, rows, k, n, times);
  if (strcmp(kernel, "qd8_f32_qc4w") == 0) run_gemm(&kernels->qd8_f32_qc4w, 4, rows, k, n, times);
  if (strcmp(kernel, "qd8_f32_qc8w") == 0) run_gemm(&kernels->qd8_f32_qc8w, 8, rows, k, n, times);
  if (strcmp(kernel, "f32_qd8_quantize") == 0) run_quantize(kernels->f32_qd8_quantize, rows, k, times);
  return 0;
}
