/* Holds a board's kernels to the scalar ones, bit by bit, over random cases: sends "ok\n", or a line that says what
 * differs in which case. The sizes fit 16 KB of RAM; with MOST_K 700 there are rows that kernels take in parts.
 *
 *   rows, columns   quantizers: ties, NaN, infinities, subnormals, every norm and both numerics
 *   gemm            ternary weights in the board's layout, tails of outputs and columns, all ±127 times all ±1, every
 *                   epilogue, numbers that are not usual
 *   conv            ternary and int8 convolutions of random geometry
 */
#include <string.h>

#include "board.h"
#include "kernels/kernels.h"
#include "kernels/scalar/scalar.h"

#ifndef CASES
#define CASES 300
#endif
#ifndef MOST_K
#define MOST_K 84
#endif
#define MOST_N 21
#define MOST_ROWS 3
#define MOST_VALUES (MOST_ROWS * (MOST_K + 16))

static const edge_kernels *const scalar = &edge_kernels_scalar;
static const edge_kernels *tested;
static uint32_t state = 1;
static const char *what;
static uint32_t number;

static uint32_t random_bits(void) {
  state ^= state << 13, state ^= state >> 17, state ^= state << 5;
  return state;
}
static uint32_t between(uint32_t low, uint32_t high) { return low + (random_bits() >> 8) % (high - low + 1); }
static bool one_in(uint32_t n) { return between(1, n) == 1; }

static float of_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
/* Of magnitude 2^low to 2^high. */
static float of_magnitude(int low, int high) {
  const uint32_t exponent = (uint32_t)(127 + low + (int)between(0, (uint32_t)(high - low)));
  return of_bits((random_bits() & 0x807FFFFF) | exponent << 23);
}
static float unusual(void) {
  static const uint32_t all[] = {0,          0x80000000, 1,          0x80000001, 0x007FFFFF, 0x00800000,
                                 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000, 0x3F800000};
  return of_bits(all[between(0, 11)]);
}

static void send_text(const char *text) { board_write((const uint8_t *)text, strlen(text)); }
static void send_number(uint32_t value) {
  char text[11];
  size_t at = sizeof text;
  text[--at] = 0;
  do text[--at] = (char)('0' + value % 10);
  while (value /= 10);
  send_text(text + at);
}
static _Noreturn void stop(const char *difference, uint32_t place, uint32_t wanted, uint32_t got) {
  send_text(what), send_text(" case "), send_number(number), send_text(": ");
  send_text(difference), send_text(" "), send_number(place), send_text(" is "), send_number(got);
  send_text(", scalar's "), send_number(wanted), send_text("\n");
  for (;;) board_idle();
}

static void same_floats(const char *name, size_t count, const float *wanted, const float *got) {
  for (size_t i = 0; i < count; ++i) {
    uint32_t a, b;
    memcpy(&a, wanted + i, 4), memcpy(&b, got + i, 4);
    if (a != b && !(a << 1 > 0xFF000000u && b << 1 > 0xFF000000u)) stop(name, (uint32_t)i, a, b);
  }
}
static void same_bytes(size_t count, const int8_t *wanted, const int8_t *got) {
  for (size_t i = 0; i < count; ++i) {
    if (wanted[i] != got[i]) stop("code", (uint32_t)i, (uint32_t)wanted[i], (uint32_t)got[i]);
  }
}
static void same_row(const edge_row *wanted, const edge_row *got, bool sums) {
  same_floats("scale", 1, &wanted->scale, &got->scale);
  same_floats("step", 1, &wanted->step, &got->step);
  if (sums && wanted->sum != got->sum) stop("sum", 0, (uint32_t)wanted->sum, (uint32_t)got->sum);
}

static float x[MOST_VALUES], results[2][MOST_VALUES], residual[MOST_VALUES], scales[MOST_N], bias[MOST_N];
static int8_t codes[2][MOST_VALUES + 64] __attribute__((aligned(16)));
static edge_row row[2][16];
static int8_t weights[MOST_N * MOST_K];
static uint8_t rows[MOST_N * ((MOST_K + 3) / 4)], packed[MOST_N * (MOST_K / 4 + 2)] __attribute__((aligned(16)));

static void fill_values(size_t count) {
  const uint32_t kind = between(0, 9);
  const int low = (int)between(0, 60) - 30;
  for (size_t i = 0; i < count; ++i) {
    x[i] = of_magnitude(low - 8, low);
    if (kind == 0) x[i] = one_in(2) ? 1.0f : -1.0f;
    if (kind == 1) x[i] = 0.0f;
    if (kind == 2 && one_in(8)) x[i] = unusual();
    if (kind == 3) x[i] = (float)((int)between(0, 254) - 127) * 0.5f; /* ties, where one is 63.5 or the like */
    if (kind == 4 && one_in(4)) x[i] = of_magnitude(-126, 127);
    if (kind == 5) x[i] = of_magnitude(-30, -16);
  }
  if (kind == 3) x[0] = 63.5f;
}

static void quantizers(bool columns) {
  const size_t count = between(1, 3), k = between(1, MOST_K), padded = (k + 15) / 16 * 16;
  const float eps = one_in(4) ? 1e-5f : -1.0f;
  const bool compat = one_in(4);
  fill_values(count * k);
  if (columns) {
    scalar->f32_qd8_quantize_columns(count, k, x, count, eps, compat, padded, codes[0], row[0]);
    tested->f32_qd8_quantize_columns(count, k, x, count, eps, compat, padded, codes[1], row[1]);
  } else {
    scalar->f32_qd8_quantize(count, k, x, eps, compat, padded, codes[0], row[0]);
    tested->f32_qd8_quantize(count, k, x, eps, compat, padded, codes[1], row[1]);
  }
  same_bytes(count * padded, codes[0], codes[1]);
  for (size_t i = 0; i < count; ++i) same_row(&row[0][i], &row[1][i], true);
}

/* --- weights ----------------------------------------------------------------------------------------------------- */

static void pack_row(size_t k, const int8_t *w, uint8_t *to) {
  for (size_t i = 0; i < k; ++i) to[i / 4] |= (uint8_t)((w[i] + 1) << i % 4 * 2);
}

static void pack_pairs(size_t n, size_t k, uint8_t *to) {
  const size_t groups = (k + 7) / 8;
  for (size_t first = 0; first < n; first += 8) {
    const size_t count = n - first < 8 ? n - first : 8;
    for (size_t g = 0; g < groups; ++g) {
      for (size_t pair = 0; pair < count / 2; ++pair, to += 4) {
        const int8_t *a = weights + (first + 2 * pair) * k, *b = a + k;
        uint32_t word = 0;
        for (unsigned step = 0; step < 4; ++step) {
          uint32_t lanes = 0;
          for (unsigned lane = 0; lane < 2; ++lane) {
            const size_t column = 8 * g + step % 2 + step / 2 * 4 + 2 * lane;
            const uint32_t low = column < k ? (uint32_t)(a[column] + 1) : 1;
            const uint32_t high = column < k ? (uint32_t)b[column] & 3 : 0;
            lanes |= (low | high << 14) << 16 * lane;
          }
          word |= step ? lanes << 4 * step | lanes >> (32 - 4 * step) : lanes;
        }
        memcpy(to, &word, 4);
      }
    }
    if (count % 2 == 0) continue;
    memset(to, 0x55, 2 * groups);
    memset(to, 0, k / 4);
    if (k % 4) to[k / 4] = (uint8_t)(0x55u << k % 4 * 2);
    pack_row(k, weights + (first + count - 1) * k, to);
    to += 2 * groups;
  }
}

static void pack_trits(size_t n, size_t k, uint8_t *to) {
  const size_t groups = (k + 4) / 5;
  for (size_t first = 0, pass; first < groups; first += pass) {
    pass = groups - first >= 8 ? 8 : groups - first >= 4 ? 4 : 1;
    for (size_t o = 0; o < n; ++o) {
      for (size_t g = first; g < first + pass; ++g) {
        uint32_t d[5];
        for (size_t j = 0; j < 5; ++j) d[j] = 5 * g + j < k ? (uint32_t)(weights[o * k + 5 * g + j] + 1) : 1;
        const uint32_t low = d[0] + 3 * d[1] + 9 * d[2], block = d[3] + 3 * d[4];
        *to++ = (uint8_t)(14 * block + low + (low >= 14 ? 112 : 0));
      }
    }
  }
}

static void pack_planes(size_t n, size_t k, uint8_t *to) {
  for (size_t o = 0; o < n; ++o) {
    for (size_t first = 0; first < k; first += 64) {
      const size_t bytes = k - first < 64 ? (k - first + 3) / 4 : 16;
      for (size_t i = 0; i < bytes; ++i, ++to) {
        *to = 0;
        for (size_t f = 0; f < 4; ++f) {
          const size_t column = first + f * bytes + i;
          *to |= (uint8_t)((column < k ? weights[o * k + column] + 1 : 1) << 2 * f);
        }
      }
    }
  }
}

/* `weights` [n, k] of -1, 0, 1, as rows and as the board has them. */
static const uint8_t *fill_weights(size_t n, size_t k, int layout) {
  const uint32_t kind = between(0, 5);
  for (size_t i = 0; i < n * k; ++i) weights[i] = (int8_t)(kind < 3 ? (int)kind - 1 : (int)between(0, 2) - 1);
  memset(rows, 0, sizeof rows);
  for (size_t o = 0; o < n; ++o) pack_row(k, weights + o * k, rows + o * ((k + 3) / 4));
  if (layout == EDGE_LAYOUT_PAIRS) pack_pairs(n, k, packed);
  if (layout == EDGE_LAYOUT_TRITS) pack_trits(n, k, packed);
  if (layout == EDGE_LAYOUT_PLANES) pack_planes(n, k, packed);
  return layout == EDGE_LAYOUT_ROWS ? rows : packed;
}

/* --- products ---------------------------------------------------------------------------------------------------- */

static edge_epilogue fill_epilogue(size_t n, bool compat) {
  const bool odd = one_in(6);
  for (size_t i = 0; i < n; ++i) {
    scales[i] = odd && one_in(2) ? unusual() : of_magnitude(-12, 3);
    bias[i] = odd && one_in(2) ? unusual() : of_magnitude(-6, 6);
    if (one_in(20)) scales[i] = of_magnitude(-126, 127), bias[i] = of_magnitude(-126, 127);
  }
  return (edge_epilogue){
      .scales = scales,
      .scale_step = between(0, 1),
      .bias = one_in(3) ? NULL : bias,
      .activation = one_in(3) ? (int)between(0, 8) : (int)between(0, 1),
      .bitlinear_compat = compat && one_in(6),
  };
}

static void products(void) {
  size_t room;
  void *scratch = board_memory(&room);
  const size_t count = between(1, MOST_ROWS), n = between(1, MOST_N), k = between(1, MOST_K > 96 && !one_in(4) ? 96 : MOST_K);
  const size_t padded = (k + 15) / 16 * 16, kind = between(0, 4);
  edge_qd8_gemm job = {.rows = count, .n = n, .k = k, .padded = padded, .codes = codes[0], .zero_point = 1,
                       .scratch = scratch};
  job.row = row[0];
  job.epilogue = fill_epilogue(n, true);
  const int low = job.epilogue.bitlinear_compat ? -128 : -127;
  for (size_t r = 0; r < count; ++r) {
    int32_t sum = 0;
    for (size_t i = 0; i < padded; ++i) {
      int code = low + (int)between(0, (uint32_t)(127 - low));
      if (kind < 3) code = kind == 0 || (kind == 1 && one_in(2)) ? 127 : low;
      codes[0][r * padded + i] = (int8_t)(i < k ? code : 0);
      sum += codes[0][r * padded + i];
    }
    row[0][r] = (edge_row){.scale = of_bits(between(110, 140) << 23 | (random_bits() & 0x7FFFFF)), .sum = sum};
    row[0][r].step = 1.0f / row[0][r].scale;
  }
  const bool across = one_in(3), adds = one_in(3);
  job.out = (edge_output_view){.row_step = across ? 1 : n, .step = across ? count : 1};
  for (size_t i = 0; adds && i < count * n; ++i) residual[i] = of_magnitude(-3, 3);
  job.out.residual = adds ? residual : NULL;
  const edge_qd8_weights *kernel = &tested->qd8_f32_qc2w;
  if (kernel->scratch_bytes != NULL && kernel->scratch_bytes(n, k) > room) stop("room", 0, 0, (uint32_t)room);
  const uint8_t *own = fill_weights(n, k, kernel->layout);
  job.weight = rows;
  job.out.data = results[0];
  scalar->qd8_f32_qc2w.run(&job, 0, n);
  job.weight = own;
  job.out.data = results[1];
  kernel->run(&job, 0, n);
  same_floats("output", count * n, results[0], results[1]);
}

static edge_conv2d geometry(bool grouped) {
  for (;;) {
    edge_conv2d s = {.batch = 1, .groups = 1, .channels = (int32_t)between(1, 9), .out_channels = (int32_t)between(1, 9),
                     .kernel_h = (int32_t)between(1, 3), .kernel_w = (int32_t)between(1, 3),
                     .stride_h = (int32_t)between(1, 2), .stride_w = (int32_t)between(1, 2),
                     .padding_h = (int32_t)between(0, 2), .padding_w = (int32_t)between(0, 2),
                     .dilation_h = (int32_t)between(1, 2), .dilation_w = (int32_t)between(1, 2),
                     .height = (int32_t)between(1, 7), .width = (int32_t)between(1, 7)};
    if (one_in(2)) s.dilation_h = s.dilation_w = 1;
    if (grouped) s.groups = one_in(2) ? s.channels : 1;
    if (s.groups > 1) s.out_channels = s.channels;
    const int32_t h = s.height + 2 * s.padding_h - s.dilation_h * (s.kernel_h - 1) - 1;
    const int32_t w = s.width + 2 * s.padding_w - s.dilation_w * (s.kernel_w - 1) - 1;
    if (h < 0 || w < 0) continue;
    s.out_height = h / s.stride_h + 1;
    s.out_width = w / s.stride_w + 1;
    if (s.out_height * s.out_width * s.out_channels <= MOST_VALUES && s.channels * s.height * s.width <= MOST_VALUES &&
        s.channels * s.kernel_h * s.kernel_w * s.out_channels <= MOST_N * MOST_K / 2 && s.kernel_h * s.kernel_w *
        s.channels <= MOST_K && s.out_channels <= MOST_N) {
      return s;
    }
  }
}

static void convolutions(bool ternary) {
  size_t room;
  uint8_t *memory = board_memory(&room);
  edge_qd8_conv2d job = {.shape = geometry(!ternary)};
  const edge_conv2d *s = &job.shape;
  const size_t taps = (size_t)(s->channels / s->groups * s->kernel_h * s->kernel_w), n = (size_t)s->out_channels;
  const edge_qd8_conv2d_weights *kernel = ternary ? &tested->qd8_f32_qc2w_conv2d : &tested->qd8_f32_qc8w_conv2d;
  const edge_qd8_conv2d_weights *wanted = ternary ? &scalar->qd8_f32_qc2w_conv2d : &scalar->qd8_f32_qc8w_conv2d;
  const uint8_t *own = rows;
  if (ternary) {
    own = fill_weights(n, taps, kernel->layout);
  } else {
    for (size_t i = 0; i < n * taps; ++i) weights[i] = (int8_t)random_bits();
  }
  fill_values((size_t)(s->channels * s->height * s->width));
  job.epilogue = fill_epilogue(n, false);
  const size_t pixels = (size_t)(s->out_height * s->out_width);
  const bool last = one_in(2), from_last = one_in(2);
  for (size_t i = 0; i < pixels * n; ++i) residual[i] = of_magnitude(-3, 3);
  job.out = (edge_output_view){.residual = one_in(3) ? residual : NULL, .row_step = last ? n : 1,
                               .step = last ? 1 : pixels};
  for (int i = 0; i < 2; ++i) {
    const edge_qd8_conv2d_weights *one = i == 0 ? wanted : kernel;
    const size_t image = (one->image_bytes(s) + 15) / 16 * 16;
    const size_t scratch = one->scratch_bytes != NULL ? one->scratch_bytes(s) : 0;
    if (image + scratch > room) stop("room", 0, (uint32_t)(image + scratch), (uint32_t)room);
    job.image = memory;
    job.scratch = memory + image;
    job.weight = !ternary ? (const void *)weights : i == 0 ? rows : own;
    one->quantize(s, x, from_last, memory, &row[i][0]);
    job.row = row[i][0];
    job.out.data = results[i];
    const size_t split = between(0, (uint32_t)s->out_height);
    one->run(&job, 0, split);
    one->run(&job, split, (size_t)s->out_height);
  }
  same_row(&row[0][0], &row[1][0], false);
  same_floats("output", pixels * n, results[0], results[1]);
}

int main(void) {
  board_start();
  tested = edge_kernels_at(0);
  for (number = 0; number < CASES; ++number) {
    state = number * 2654435761u + 12345;
    for (int i = 0; i < 4; ++i) random_bits();
    board_watchdog_feed();
    what = "rows", quantizers(false);
    what = "columns", quantizers(true);
    what = "gemm", products();
    what = "conv ternary", convolutions(true);
    what = "conv int8", convolutions(false);
  }
  send_text("ok ");
  send_text(tested->isa);
  send_text("\n");
  for (;;) board_idle();
}
