/* Times the 2-bit GEMM alone, beside what this CPU's multiplications can do: time_kernels ROUNDS SHAPE...
 *
 * A shape is ROWSxKxN: rows of activations, values of each, outputs. Activations are quantized and weights packed
 * before; a run is what ops/quantized_linear.c asks of one thread, a block of rows after another, epilogue included.
 * Every round measures the instructions' rates and each instruction set's kernels once, so that a clock that changes
 * changes both.
 *
 * One line a rate, "rate vpdpbusd zmm;4.1e+11", then one a kernel, "kernel avx2;196x576x2304;1.6e+11": the most
 * multiply-accumulates a second of all rounds.
 */
#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L
#endif

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/kernels.h"
#include "peak.h"

#define MOST_CASES 64
/* A spell is as many runs as take about this: long against the clock's resolution, short against a time slice. */
#define SPELL_SECONDS 1e-3

typedef struct timed {
  const char *isa, *shape;
  void (*run)(const edge_qd8_gemm *gemm, size_t first, size_t last);
  edge_qd8_gemm gemm; /* of all rows */
  size_t runs;        /* of a spell */
  double best;        /* seconds of a run */
} timed;

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void *room(size_t bytes) {
  void *memory = NULL;
  if (posix_memalign(&memory, 64, bytes + 1) != 0) exit(1);
  return memset(memory, 0, bytes + 1);
}

/* Ternary weights, a scale for all, no bias: what a model's ternary layers mostly have. */
static edge_qd8_gemm random_gemm(size_t rows, size_t k, size_t n, const edge_qd8_weights *kernel) {
  const size_t padded = (k + EDGE_ROW_ALIGN - 1) / EDGE_ROW_ALIGN * EDGE_ROW_ALIGN, bytes = n * ((k + 3) / 4);
  int8_t *codes = room(rows * padded);
  edge_row *row = room(rows * sizeof(edge_row));
  uint8_t *weight = room(bytes);
  float *scale = room(sizeof(float));
  *scale = 0.01f;
  for (size_t i = 0; i < bytes; ++i) {
    weight[i] = (uint8_t)(rand() >> 8);
    weight[i] &= (uint8_t)~(weight[i] >> 1 & 0x55); /* 3 becomes 2 */
  }
  for (size_t r = 0; r < rows; ++r) {
    row[r] = (edge_row){.scale = 12.7f, .step = 1.0f / 12.7f};
    for (size_t i = 0; i < k; ++i) row[r].sum += codes[r * padded + i] = (int8_t)(rand() % 255 - 127);
  }
  edge_qd8_gemm gemm = {.rows = rows, .n = n, .k = k, .padded = padded, .codes = codes, .row = row, .zero_point = 1};
  gemm.epilogue.scales = scale;
  gemm.out = (edge_output_view){.data = room(rows * n * sizeof(float)), .row_step = n, .step = 1};
  gemm.weight = weight;
  if (kernel->packed_bytes != NULL) {
    void *packed = room(kernel->packed_bytes(n, k));
    kernel->pack(n, k, weight, packed);
    gemm.weight = packed;
    free(weight);
  }
  return gemm;
}

static double spell(const timed *it) {
  const edge_qd8_gemm *all = &it->gemm;
  const double start = now();
  for (size_t i = 0; i < it->runs; ++i) {
    for (size_t r = 0; r < all->rows; r += EDGE_ROW_BLOCK) {
      edge_qd8_gemm block = *all;
      block.rows = all->rows - r < EDGE_ROW_BLOCK ? all->rows - r : EDGE_ROW_BLOCK;
      block.codes += r * all->padded;
      block.row += r;
      block.out.data += r * all->n;
      it->run(&block, 0, all->n);
    }
  }
  return (now() - start) / (double)it->runs;
}

int main(int count, char **words) {
  static timed cases[MOST_CASES];
  static char buffer[4096]; /* for the rate of reading, which is not asked for */
  size_t case_count = 0;
  const edge_kernels *kernels;
  if (count < 3) return 1;
  for (int i = 2; i < count; ++i) {
    size_t rows, k, n;
    if (sscanf(words[i], "%zux%zux%zu", &rows, &k, &n) != 3) return 1;
    for (size_t j = 0; (kernels = edge_kernels_at(j)) != NULL && kernels != &edge_kernels_scalar; ++j) {
      if (case_count == MOST_CASES) return 1;
      timed *it = &cases[case_count++];
      *it = (timed){.isa = kernels->isa, .shape = words[i], .run = kernels->qd8_f32_qc2w.run, .runs = 1, .best = 1e9};
      it->gemm = random_gemm(rows, k, n, &kernels->qd8_f32_qc2w);
      spell(it); /* warm */
      it->runs = 1 + (size_t)(SPELL_SECONDS / spell(it));
    }
  }
  memset(buffer, 1, sizeof buffer);
  edge_peak best = {0};
  for (long round = strtol(words[1], NULL, 10); round > 0; --round) {
    edge_peak peak;
    edge_measure_peak(now, SPELL_SECONDS, buffer, sizeof buffer, &peak);
    for (size_t i = 0; i < peak.int8_count; ++i) {
      if (peak.int8[i].macs_per_second < best.int8[i].macs_per_second) {
        peak.int8[i].macs_per_second = best.int8[i].macs_per_second;
      }
    }
    best = peak;
    for (size_t i = 0; i < case_count; ++i) {
      const double seconds = spell(&cases[i]);
      if (seconds < cases[i].best) cases[i].best = seconds;
    }
  }
  for (size_t i = 0; i < best.int8_count; ++i) {
    printf("rate %s;%g\n", best.int8[i].name, best.int8[i].macs_per_second);
  }
  for (size_t i = 0; i < case_count; ++i) {
    const edge_qd8_gemm *gemm = &cases[i].gemm;
    const double macs = (double)gemm->rows * (double)gemm->n * (double)gemm->k;
    printf("kernel %s;%s;%g\n", cases[i].isa, cases[i].shape, macs / cases[i].best);
  }
  return 0;
}
