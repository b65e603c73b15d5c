/* int8 codes times int8 weights: what the GEMM of 8- and 4-bit weights and the dense convolution have in common.
 *
 * A row of codes is a pointer, from which a few runs of codes lie at the same steps for every row: one run for a GEMM,
 * one a kernel row for a convolution. Each run is a whole number of quads, four codes; where the true depth ends
 * before, the weights are 0. Weights lie as panels of 64 outputs: for each quad 64 times 4 bytes, output by output
 * (N64K4, 8 bits). Before the panels, a number for each output that its sum starts from.
 *
 * The file that includes this defines before
 *   DENSE_OFFSET      what its tile adds to every code, to make it unsigned; the sums start from that much less
 *   DENSE_ROWS        rows of its tile
 * and gives
 *   dense_tile(rows, groups, runs, start, weight, row, sums)
 *                     of rows <= DENSE_ROWS rows (a constant 1 or DENSE_ROWS) and the first 16 * groups outputs of a
 *                     panel (a constant), at sums[row * EDGE_PANEL + output]
 */

typedef struct dense_runs {
  size_t down, across;           /* runs of a row */
  size_t down_step, across_step; /* codes from one to the next */
  size_t quads;                  /* of a run */
} dense_runs;

EDGE_INLINE void dense_tile(const size_t rows, const size_t groups, const dense_runs *runs, const int32_t *start,
                            const int8_t *weight, const int8_t *const *row, int32_t *sums);

/* Rows of codes side by side. */
EDGE_INLINE dense_runs one_run(size_t depth) { return (dense_runs){.down = 1, .across = 1, .quads = (depth + 3) / 4}; }

EDGE_INLINE size_t dense_panels(size_t n) { return (n + EDGE_PANEL - 1) / EDGE_PANEL; }

EDGE_INLINE size_t dense_panel_bytes(const dense_runs *runs) {
  return runs->down * runs->across * runs->quads * EDGE_PANEL * 4;
}

EDGE_INLINE size_t dense_bytes(const dense_runs *runs, size_t n) {
  return dense_panels(n) * (EDGE_PANEL * sizeof(int32_t) + dense_panel_bytes(runs));
}

/* Puts the weight of output o and value i of a run into zeroed memory. */
EDGE_INLINE void dense_put(const dense_runs *runs, void *packed, size_t panels, size_t o, size_t run, size_t i,
                           int8_t weight) {
  int32_t *start = packed;
  int8_t *panel = (int8_t *)(start + panels * EDGE_PANEL) + o / EDGE_PANEL * dense_panel_bytes(runs);
  panel[((run * runs->quads + i / 4) * EDGE_PANEL + o % EDGE_PANEL) * 4 + i % 4] = weight;
  start[o] -= DENSE_OFFSET * weight;
}

EDGE_INLINE void dense_panel(const size_t groups, const dense_runs *runs, const int32_t *start, const int8_t *weight,
                             const int8_t *const *row, size_t rows, int32_t *sums) {
  size_t r = 0;
  for (; r + DENSE_ROWS <= rows; r += DENSE_ROWS) {
    dense_tile(DENSE_ROWS, groups, runs, start, weight, row + r, sums + r * EDGE_PANEL);
  }
  for (; r < rows; ++r) dense_tile(1, groups, runs, start, weight, row + r, sums + r * EDGE_PANEL);
}

/* The sums of `rows` rows and `count` outputs of a panel. */
static void dense_sums(const dense_runs *runs, const void *packed, size_t panels, size_t panel,
                       const int8_t *const *row, size_t rows, size_t count, int32_t *sums) {
  const int32_t *starts = packed, *start = starts + panel * EDGE_PANEL;
  const int8_t *weight = (const int8_t *)(starts + panels * EDGE_PANEL) + panel * dense_panel_bytes(runs);
  switch ((count + 15) / 16) {
    case 1: dense_panel(1, runs, start, weight, row, rows, sums); break;
    case 2: dense_panel(2, runs, start, weight, row, rows, sums); break;
    case 3: dense_panel(3, runs, start, weight, row, rows, sums); break;
    default: dense_panel(4, runs, start, weight, row, rows, sums); break;
  }
}
