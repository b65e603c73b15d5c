/* Compares the kernels of every instruction set that this machine runs with the scalar ones, bit by bit, over random
 * cases: compare_kernels [SEED [CASES [ISA [KERNEL [CASE]]]]].
 *
 * One line an instruction set and kernel: "neon_dotprod qd8_f32_qc2w 200". Entry points that a table shares with
 * scalar are left out. The first difference ends the program with status 1 and says which command shows it again. Two
 * NaN are equal. Build with the sources in kernels/ and -ffp-contract=off.
 */
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE /* anonymous mappings */
#endif

#include "random_cases.h"

#include "kernels/scalar/scalar.h"

static const edge_kernels *const scalar = &edge_kernels_scalar;
static char shape[400];      /* of the current case, for the message */
static char difference[200]; /* empty where there is none */

/* Every case says so what it drew. */
#define SHAPE(...) snprintf(shape, sizeof shape, __VA_ARGS__)

static void compare_ints(const char *what, int64_t expected, int64_t got) {
  if (expected != got && !difference[0]) {
    snprintf(difference, sizeof difference, "%s is %lld, scalar's %lld", what, (long long)got, (long long)expected);
  }
}

static void compare_bytes(const char *what, size_t count, const int8_t *expected, const int8_t *got) {
  for (size_t i = 0; i < count && !difference[0]; ++i) {
    if (expected[i] != got[i]) {
      snprintf(difference, sizeof difference, "%s %zu is %d, scalar's %d", what, i, got[i], expected[i]);
    }
  }
}

static void compare_floats(const char *what, size_t count, const float *expected, const float *got) {
  for (size_t i = 0; i < count && !difference[0]; ++i) {
    if (memcmp(&expected[i], &got[i], sizeof(float)) != 0 && !(expected[i] != expected[i] && got[i] != got[i])) {
      snprintf(difference, sizeof difference, "%s %zu is %a, scalar's %a", what, i, (double)got[i],
               (double)expected[i]);
    }
  }
}

/* --- quantization ------------------------------------------------------------------------------------------------ */

static float random_norm_eps(void) {
  const float all[] = {-1.0f, 1e-5f, 1e-6f, 0.0f};
  return all[between(0, 3)];
}

static size_t random_padded(size_t k) {
  return one_in(4) ? k : (k + EDGE_ROW_ALIGN - 1) / EDGE_ROW_ALIGN * EDGE_ROW_ALIGN;
}

static void compare_rows(size_t rows, const edge_row *expected, const edge_row *got) {
  for (size_t r = 0; r < rows; ++r) {
    compare_floats("the scale of a row: value", 1, &expected[r].scale, &got[r].scale);
    compare_floats("the step of a row: value", 1, &expected[r].step, &got[r].step);
    compare_ints("the sum of a row", expected[r].sum, got[r].sum);
  }
}

static bool quantize(const edge_kernels *tested) {
  const bool deep = one_in(100); /* so that sums of codes leave what a float holds exactly */
  const size_t rows = deep ? 1 : one_in(2) ? EDGE_TOKEN_BLOCK : between(1, EDGE_TOKEN_BLOCK);
  const size_t k = deep ? between(130000, 140000) : length(one_in(8) ? 3000 : 400), padded = random_padded(k);
  const float eps = random_norm_eps();
  const bool compat = one_in(3);
  const float *x = random_floats(rows * k, true);
  int8_t *expected = room(rows * padded, 0), *got = room(rows * padded, one_in(2) ? between(0, 63) : 0);
  edge_row row[2][EDGE_TOKEN_BLOCK] = {{{0}}};
  SHAPE("rows %zu, k %zu, padded %zu, norm_eps %g, compat %d", rows, k, padded, (double)eps, compat);
  scalar->f32_qd8_quantize(rows, k, x, eps, compat, padded, expected, row[0]);
  tested->f32_qd8_quantize(rows, k, x, eps, compat, padded, got, row[1]);
  compare_bytes("code", rows * padded, expected, got);
  compare_rows(rows, row[0], row[1]);
  return true;
}

static bool quantize_columns(const edge_kernels *tested) {
  const size_t tokens = one_in(2) ? EDGE_TOKEN_BLOCK : between(1, EDGE_TOKEN_BLOCK), k = length(200);
  const size_t padded = random_padded(k), step = tokens + (one_in(2) ? 0 : between(0, 40));
  const float eps = random_norm_eps();
  const bool compat = one_in(3);
  const float *x = random_floats((k - 1) * step + tokens, true);
  int8_t *expected = room(tokens * padded, 0), *got = room(tokens * padded, one_in(2) ? between(0, 63) : 0);
  edge_row rows[2][EDGE_TOKEN_BLOCK] = {{{0}}};
  SHAPE("tokens %zu, k %zu, step %zu, padded %zu, norm_eps %g, compat %d", tokens, k, step, padded, (double)eps,
        compat);
  scalar->f32_qd8_quantize_columns(tokens, k, x, step, eps, compat, padded, expected, rows[0]);
  tested->f32_qd8_quantize_columns(tokens, k, x, step, eps, compat, padded, got, rows[1]);
  compare_bytes("code", tokens * padded, expected, got);
  compare_rows(tokens, rows[0], rows[1]);
  return true;
}

/* --- integer GEMM ------------------------------------------------------------------------------------------------ */

/* Codes of quantized rows: random, or all at an end of the range, where sums in 16 bits would overflow. */
static void fill_codes(size_t rows, size_t k, size_t padded, bool compat, int8_t *codes, edge_row *row) {
  const size_t kind = between(0, 5);
  const int low = compat ? -128 : -127;
  for (size_t r = 0; r < rows; ++r) {
    int32_t sum = 0;
    for (size_t i = 0; i < padded; ++i) {
      int code = low + (int)between(0, (size_t)(127 - low));
      if (kind < 3) code = kind == 0 || (kind == 1 && one_in(2)) ? 127 : low;
      if (i >= k) code = 0;
      codes[r * padded + i] = (int8_t)code;
      sum += code;
    }
    row[r] = (edge_row){.scale = positive(-10, 22), .sum = sum};
    row[r].step = 1.0f / row[r].scale;
  }
}

/* Weights in the file's layout: any bits (the stray code 3 among them), ternary codes only, or one code everywhere. */
static void fill_weights(uint8_t *weight, size_t bytes, int bits) {
  static const uint8_t same_2[] = {0x00, 0x55, 0xAA, 0xFF}, same_4[] = {0x00, 0xFF, 0x88, 0x77},
                       same_8[] = {0x80, 0x7F, 0x81, 0xFF};
  const uint8_t *same = bits == 2 ? same_2 : bits == 4 ? same_4 : same_8;
  const size_t kind = between(0, 9);
  for (size_t i = 0; i < bytes; ++i) {
    uint8_t byte = (uint8_t)random_bits();
    if (bits == 2 && kind < 4) byte &= (uint8_t)~(byte >> 1 & 0x55); /* 3 becomes 2 */
    weight[i] = kind >= 6 ? same[kind - 6] : byte;
  }
}

static const edge_qd8_weights *storage(const edge_kernels *kernels, int bits) {
  return bits == 2 ? &kernels->qd8_f32_qc2w : bits == 4 ? &kernels->qd8_f32_qc4w : &kernels->qd8_f32_qc8w;
}

static bool gemm(const edge_kernels *tested, int bits) {
  const edge_qd8_weights *kernel = storage(tested, bits);
  const bool deep = one_in(12);
  const size_t rows = one_in(4) ? 1 : one_in(5) ? EDGE_ROW_BLOCK : between(1, EDGE_ROW_BLOCK);
  const size_t k = deep ? between(1000, 6000) : length(400), n = length(deep ? 70 : 260);
  const size_t padded = (k + EDGE_ROW_ALIGN - 1) / EDGE_ROW_ALIGN * EDGE_ROW_ALIGN;
  const size_t bytes = n * ((k * (size_t)bits + 7) / 8);
  edge_qd8_gemm job = {.rows = rows, .n = n, .k = k, .padded = padded};
  job.epilogue = random_epilogue(n, true);
  job.zero_point = bits == 2 ? (int)between(1, 2) : 8;
  int8_t *codes = room(rows * padded, 8 * between(0, 7));
  edge_row *row = room(rows * sizeof(edge_row), 8 * between(0, 1));
  fill_codes(rows, k, padded, bits == 2 && job.epilogue.bitlinear_compat, codes, row);
  uint8_t *weight = room(bytes, one_in(2) ? between(0, 63) : 0);
  fill_weights(weight, bytes, bits);
  job.codes = codes;
  job.row = row;
  job.weight = weight;

  /* A range of panels, as a thread gets it, of a linear's or a convolution's output. */
  const size_t panels = (n + EDGE_PANEL - 1) / EDGE_PANEL, begin = one_in(2) ? 0 : between(0, panels - 1);
  const size_t end = one_in(2) ? panels : between(begin + 1, panels);
  const size_t first = begin * EDGE_PANEL, last = end * EDGE_PANEL < n ? end * EDGE_PANEL : n;
  const bool conv = one_in(3);
  job.out.row_step = conv ? 1 : n + (one_in(3) ? between(0, 9) : 0);
  job.out.step = conv ? rows + (one_in(2) ? between(0, 9) : 0) : 1;
  const size_t outputs = (rows - 1) * job.out.row_step + (n - 1) * job.out.step + 1;
  if (one_in(3)) job.out.residual = random_floats(outputs, false);
  float *expected, *got;
  const size_t compared = output_pair(outputs, &expected, &got);
  SHAPE("rows %zu, n %zu, k %zu, outputs %zu to %zu, zero point %d, steps %zu and %zu, activation %d, compat %d%s%s",
        rows, n, k, first, last, job.zero_point, job.out.row_step, job.out.step, job.epilogue.activation,
        job.epilogue.bitlinear_compat, job.epilogue.bias != NULL ? ", bias" : "",
        job.out.residual != NULL ? ", residual" : "");

  job.out.data = expected;
  storage(scalar, bits)->run(&job, first, last);
  if (kernel->packed_bytes != NULL) {
    const size_t packed_bytes = kernel->packed_bytes(n, k);
    if (packed_bytes == 0) return false;
    void *packed = room(packed_bytes, 0);
    kernel->pack(n, k, weight, packed);
    job.weight = packed;
  }
  job.out.data = got;
  kernel->run(&job, first, last);
  compare_floats("output", compared, expected, got);
  return true;
}

static bool gemm_2(const edge_kernels *tested) { return gemm(tested, 2); }
static bool gemm_4(const edge_kernels *tested) { return gemm(tested, 4); }
static bool gemm_8(const edge_kernels *tested) { return gemm(tested, 8); }

/* --- convolutions ------------------------------------------------------------------------------------------------ */

static void conv_shape(const edge_conv2d *c, const char *rest) {
  SHAPE("channels %d to %d in %d groups, image %dx%d to %dx%d, kernel %dx%d, stride %dx%d, padding %dx%d, dilation "
        "%dx%d%s",
        (int)c->channels, (int)c->out_channels, (int)c->groups, (int)c->height, (int)c->width, (int)c->out_height,
        (int)c->out_width, (int)c->kernel_h, (int)c->kernel_w, (int)c->stride_h, (int)c->stride_w, (int)c->padding_h,
        (int)c->padding_w, (int)c->dilation_h, (int)c->dilation_w, rest);
}

/* The whole way of one table: quantize, pack, and the output rows first .. last - 1. */
static bool quantized_conv_by(const edge_qd8_conv2d_weights *kernel, const float *x, bool channels_last,
                              const void *weight, edge_qd8_conv2d *job, size_t first, size_t last) {
  job->weight = weight;
  if (kernel->packed_bytes != NULL) {
    const size_t packed_bytes = kernel->packed_bytes(&job->shape);
    if (packed_bytes == 0) return false;
    void *packed = room(packed_bytes, 0);
    kernel->pack(&job->shape, weight, packed);
    job->weight = packed;
  }
  void *image = room(kernel->image_bytes(&job->shape), 0);
  kernel->quantize(&job->shape, x, channels_last, image, &job->row);
  job->image = image;
  if (kernel->scratch_bytes != NULL) job->scratch = room(kernel->scratch_bytes(&job->shape), 0);
  kernel->run(job, first, last);
  return true;
}

/* Ternary convolutions have no groups. */
static void in_one_group(edge_conv2d *conv) {
  if (conv->groups == 1) return;
  conv->groups = 1;
  if (conv->channels > 40) conv->channels = 40;
  if (conv->out_channels > 40) conv->out_channels = 40;
}

/* A depthwise convolution as mobile networks have them, whose outputs some kernels finish where they make the sums. */
static edge_conv2d random_depthwise(void) {
  const int32_t channels = 16 * (int32_t)between(1, 9), high = one_in(2) ? 3 : (int32_t)between(1, 5);
  const int32_t height = (int32_t)between(1, 12), width = (int32_t)between(1, one_in(4) ? 120 : 24);
  return (edge_conv2d){.batch = 1, .channels = channels, .height = high + height - 1, .width = width,
                       .out_channels = channels, .out_height = height, .out_width = width, .kernel_h = high,
                       .kernel_w = 3, .stride_h = 1, .stride_w = 1, .padding_w = 1, .dilation_h = 1, .dilation_w = 1,
                       .groups = channels};
}

static bool quantized_conv(const edge_qd8_conv2d_weights *reference, const edge_qd8_conv2d_weights *tested, int bits) {
  const bool mobile = bits == 8 && one_in(4);
  edge_qd8_conv2d job = {.shape = mobile ? random_depthwise() : random_conv()};
  if (bits == 2) in_one_group(&job.shape);
  const size_t outputs = conv_outputs(&job.shape), rows = (size_t)job.shape.out_height;
  const float *x = random_floats(conv_inputs(&job.shape), true);
  const size_t taps = conv_weights(&job.shape) / (size_t)job.shape.out_channels;
  const size_t weight_bytes = (size_t)job.shape.out_channels * (bits == 2 ? (taps + 3) / 4 : taps);
  uint8_t *weight = room(weight_bytes, one_in(2) ? between(0, 63) : 0);
  fill_weights(weight, weight_bytes, bits);
  job.epilogue = random_epilogue((size_t)job.shape.out_channels, false);
  const bool in_last = one_in(2), out_last = one_in(2) || mobile;
  if (mobile && !one_in(4)) {
    job.epilogue.activation = EDGE_ACT_RELU;
    if (job.epilogue.bias == NULL) job.epilogue.bias = random_floats((size_t)job.shape.out_channels, false);
  }
  job.out.row_step = out_last ? (size_t)job.shape.out_channels : 1;
  job.out.step = out_last ? 1 : rows * (size_t)job.shape.out_width;
  if (one_in(mobile ? 6 : 3)) job.out.residual = random_floats(outputs, false);
  const size_t first = one_in(2) ? 0 : between(0, rows - 1), last = one_in(2) ? rows : between(first + 1, rows);
  float *expected, *got, scale;
  const size_t compared = output_pair(outputs, &expected, &got);
  char rest[64];
  snprintf(rest, sizeof rest, ", channels last %d to %d%s", in_last, out_last,
           job.out.residual != NULL ? ", residual" : "");
  conv_shape(&job.shape, rest);
  job.out.data = expected;
  quantized_conv_by(reference, x, in_last, weight, &job, first, last);
  scale = job.row.scale;
  job.out.data = got;
  if (!quantized_conv_by(tested, x, in_last, weight, &job, first, last)) return false;
  compare_floats("the scale of the sample: value", 1, &scale, &job.row.scale);
  compare_floats("output", compared, expected, got);
  return true;
}

static bool int8_conv(const edge_kernels *tested) {
  return quantized_conv(&scalar->qd8_f32_qc8w_conv2d, &tested->qd8_f32_qc8w_conv2d, 8);
}
static bool ternary_conv(const edge_kernels *tested) {
  return quantized_conv(&scalar->qd8_f32_qc2w_conv2d, &tested->qd8_f32_qc2w_conv2d, 2);
}

/* A convolution whose kernel is 1 x 1 and whose pixels lie side by side. */
static edge_conv2d random_pointwise(void) {
  const int32_t pixels = (int32_t)(one_in(4) ? 1 : length(100));
  return (edge_conv2d){.batch = 1, .channels = (int32_t)length(100), .height = 1, .width = pixels,
                       .out_channels = (int32_t)length(200), .out_height = 1, .out_width = pixels, .kernel_h = 1,
                       .kernel_w = 1, .stride_h = 1, .stride_w = 1, .dilation_h = 1, .dilation_w = 1, .groups = 1};
}

static bool float_conv(const edge_kernels *tested) {
  const edge_f32_conv2d_weights *kernel = &tested->f32_conv2d;
  edge_f32_conv2d job = {.shape = one_in(4) ? random_pointwise() : random_conv(), .channels_last = one_in(2)};
  const size_t outputs = conv_outputs(&job.shape), channels = (size_t)job.shape.out_channels;
  const size_t pixels = outputs / channels;
  job.activation = (int)between(0, EDGE_ACT_COUNT - 1);
  job.x = random_floats(conv_inputs(&job.shape), true);
  const float *weight = random_floats(conv_weights(&job.shape), true);
  job.weight = weight;
  if (one_in(2)) job.bias = random_floats(channels, false);
  const bool out_last = one_in(2);
  job.out.row_step = out_last ? channels : 1;
  job.out.step = out_last ? 1 : pixels;
  if (one_in(3)) job.out.residual = random_floats(outputs, false);
  edge_conv_part part = {0, pixels, 0, channels};
  if (one_in(2)) { /* as a thread gets it */
    part.first_pixel = between(0, pixels - 1);
    part.last_pixel = between(part.first_pixel + 1, pixels);
  }
  if (one_in(2) && job.shape.groups == 1) {
    const size_t panels = (channels + EDGE_PANEL - 1) / EDGE_PANEL, first = between(0, panels - 1);
    const size_t last = between(first + 1, panels) * EDGE_PANEL;
    part.first_channel = first * EDGE_PANEL;
    part.last_channel = last < channels ? last : channels;
  }
  float *expected, *got;
  const size_t compared = output_pair(outputs, &expected, &got);
  char rest[160];
  snprintf(rest, sizeof rest, ", channels last %d to %d, pixels %zu to %zu, outputs %zu to %zu, activation %d%s%s",
           job.channels_last, out_last, part.first_pixel, part.last_pixel, part.first_channel, part.last_channel,
           job.activation, job.bias != NULL ? ", bias" : "", job.out.residual != NULL ? ", residual" : "");
  conv_shape(&job.shape, rest);
  job.out.data = expected;
  scalar->f32_conv2d.run(&job, &part);
  if (kernel->packed_bytes != NULL) {
    const size_t packed_bytes = kernel->packed_bytes(&job.shape);
    if (packed_bytes == 0) return false;
    void *packed = room(packed_bytes, 0);
    kernel->pack(&job.shape, weight, packed);
    job.weight = packed;
    const size_t image_bytes = kernel->image_bytes(&job.shape);
    if (image_bytes > 0 && !job.channels_last) {
      float *image = room(image_bytes, 16 * between(0, 3));
      kernel->turn(&job.shape, job.x, image);
      job.x = image;
      job.channels_last = true;
    }
  }
  job.out.data = got;
  kernel->run(&job, &part);
  compare_floats("output", compared, expected, got);
  return true;
}

/* --- floats ------------------------------------------------------------------------------------------------------ */

/* Row-major or transposed, sometimes with gaps. */
static edge_matrix random_matrix(size_t rows, size_t columns, bool special) {
  const size_t gap = one_in(3) ? between(0, 5) : 0;
  edge_matrix matrix = {.row_step = columns + gap, .step = 1};
  if (one_in(2)) matrix = (edge_matrix){.row_step = 1, .step = rows + gap};
  matrix.data = random_floats((rows - 1) * matrix.row_step + (columns - 1) * matrix.step + 1, special);
  return matrix;
}

static bool float_gemm(const edge_kernels *tested) {
  const size_t rows = one_in(4) ? 1 : between(1, 70), n = one_in(8) ? 1 : length(150), k = length(150);
  const int activation = (int)between(0, EDGE_ACT_COUNT - 1);
  const edge_matrix a = random_matrix(rows, k, true), b = random_matrix(n, k, true);
  const float *bias = one_in(2) ? random_floats(n, false) : NULL;
  edge_output_view out = {.row_step = n + (one_in(3) ? between(0, 5) : 0), .step = 1};
  if (one_in(4)) out = (edge_output_view){.row_step = 1, .step = rows + (one_in(3) ? between(0, 5) : 0)};
  const size_t outputs = (rows - 1) * out.row_step + (n - 1) * out.step + 1;
  if (one_in(3)) out.residual = random_floats(outputs, false);
  float *expected, *got;
  const size_t compared = output_pair(outputs, &expected, &got);
  SHAPE("rows %zu, n %zu, k %zu, steps of a %zu and %zu, of b %zu and %zu, of out %zu and %zu, activation %d%s%s", rows,
        n, k, a.row_step, a.step, b.row_step, b.step, out.row_step, out.step, activation, bias != NULL ? ", bias" : "",
        out.residual != NULL ? ", residual" : "");
  out.data = expected;
  scalar->f32_gemm(rows, n, k, a, b, bias, activation, &out);
  out.data = got;
  tested->f32_gemm(rows, n, k, a, b, bias, activation, &out);
  compare_floats("output", compared, expected, got);
  return true;
}

static bool layer_norm(const edge_kernels *tested) {
  const size_t rows = one_in(2) ? EDGE_TOKEN_BLOCK : between(1, EDGE_TOKEN_BLOCK);
  const size_t k = length(one_in(8) ? 2000 : 300);
  const float *x = random_floats(rows * k, true);
  const float *weight = one_in(3) ? NULL : random_floats(k, false), *bias = one_in(3) ? NULL : random_floats(k, false);
  const float eps = one_in(2) ? 1e-5f : positive(-40, 0);
  const bool moments = one_in(2);
  float *expected, *got, mean[2][EDGE_TOKEN_BLOCK] = {{0}}, rstd[2][EDGE_TOKEN_BLOCK] = {{0}};
  const size_t compared = output_pair(rows * k, &expected, &got);
  SHAPE("rows %zu, k %zu%s%s, eps %a", rows, k, weight != NULL ? ", weight" : "", bias != NULL ? ", bias" : "",
        (double)eps);
  scalar->f32_layer_norm(rows, k, x, weight, bias, eps, expected, moments ? mean[0] : NULL, moments ? rstd[0] : NULL);
  tested->f32_layer_norm(rows, k, x, weight, bias, eps, got, moments ? mean[1] : NULL, moments ? rstd[1] : NULL);
  compare_floats("output", compared, expected, got);
  compare_floats("mean", EDGE_TOKEN_BLOCK, mean[0], mean[1]);
  compare_floats("rstd", EDGE_TOKEN_BLOCK, rstd[0], rstd[1]);
  return true;
}

/* Hides some values, sometimes all, as a mask does. */
static void hide(float *values, size_t count) {
  const size_t kind = between(0, 7);
  for (size_t i = 0; i < count; ++i) {
    if (kind == 0 || (kind < 3 && one_in(2))) values[i] = -INFINITY;
  }
}

static bool largest(const edge_kernels *tested) {
  const size_t n = length(300), count = between(1, 12);
  const float *x[12];
  float *expected, *got;
  const size_t compared = output_pair(n, &expected, &got);
  for (size_t j = 0; j < count; ++j) x[j] = random_floats(n, true);
  const bool in_place = one_in(3);
  SHAPE("n %zu, count %zu%s", n, count, in_place ? ", in place" : "");
  if (in_place) {
    memcpy(expected, x[0], n * sizeof(float));
    memcpy(got, x[0], n * sizeof(float));
    x[0] = expected;
  }
  scalar->f32_largest(n, count, x, expected);
  if (in_place) x[0] = got;
  tested->f32_largest(n, count, x, got);
  compare_floats("output", compared, expected, got);
  return true;
}

static bool softmax(const edge_kernels *tested) {
  const size_t k = length(one_in(8) ? 2000 : 300);
  float *x = random_floats(k, true), *expected, *got;
  hide(x, k);
  const bool in_place = one_in(3);
  const size_t compared = output_pair(k, &expected, &got);
  SHAPE("k %zu%s", k, in_place ? ", in place" : "");
  scalar->f32_softmax(k, x, expected);
  if (in_place) memcpy(got, x, k * sizeof(float));
  tested->f32_softmax(k, in_place ? got : x, got);
  compare_floats("output", compared, expected, got);
  return true;
}

static bool attention_by(const edge_attention *reference, const edge_attention *kernel) {
  edge_attention_head head = {.queries = length(70), .keys = length(one_in(8) ? 300 : 70), .depth = length(72)};
  if (one_in(16)) { /* more than a block of keys, whose sums fit 32 bits */
    head.queries = length(5);
    head.keys = length(2200);
  }
  head.q_step = head.depth + (one_in(2) ? between(0, 100) : 0);
  head.k_step = head.depth + (one_in(2) ? between(0, 100) : 0);
  head.v_step = head.depth + (one_in(2) ? between(0, 100) : 0);
  head.out_step = head.depth + (one_in(2) ? between(0, 100) : 0);
  head.q = random_floats((head.queries - 1) * head.q_step + head.depth, false);
  head.k = random_floats((head.keys - 1) * head.k_step + head.depth, one_in(4));
  head.v = random_floats((head.keys - 1) * head.v_step + head.depth, one_in(4));
  head.scale = one_in(3) ? 1.0f : positive(-5, 1);
  head.causal = one_in(3);
  if (one_in(2)) {
    head.mask_query_step = one_in(3) ? 0 : head.keys + (one_in(2) ? between(0, 9) : 0);
    head.mask_key_step = one_in(8) ? 0 : 1;
    const size_t masks = (head.queries - 1) * head.mask_query_step + (head.keys - 1) * head.mask_key_step + 1;
    float *mask = random_floats(masks, one_in(4));
    hide(mask, masks);
    head.mask = mask;
  }
  const size_t first = one_in(2) ? 0 : between(0, head.queries - 1);
  const size_t last = one_in(2) ? head.queries : between(first + 1, head.queries);
  float *expected, *got;
  const size_t compared = output_pair((head.queries - 1) * head.out_step + head.depth, &expected, &got);
  SHAPE("queries %zu to %zu of %zu, keys %zu, depth %zu, steps %zu %zu %zu %zu%s%s", first, last, head.queries,
        head.keys, head.depth, head.q_step, head.k_step, head.v_step, head.out_step, head.causal ? ", causal" : "",
        head.mask != NULL ? ", mask" : "");
  head.out = expected;
  head.scratch = room(reference->scratch_bytes(head.keys, head.depth), 0);
  reference->run(&head, first, last);
  head.out = got;
  head.scratch = room(kernel->scratch_bytes(head.keys, head.depth), 0);
  kernel->run(&head, first, last);
  compare_floats("output", compared, expected, got);
  return true;
}

static bool attention(const edge_kernels *tested) { return attention_by(&scalar->f32_attention, &tested->f32_attention); }
static bool integer_attention(const edge_kernels *tested) {
  return attention_by(&scalar->qd8_attention, &tested->qd8_attention);
}

/* --- all of them ------------------------------------------------------------------------------------------------- */

typedef struct kernel {
  const char *name;
  bool (*compare)(const edge_kernels *tested); /* one case; false where the kernel leaves the shape to scalar */
} kernel;

static const kernel kernels[] = {
    {"f32_qd8_quantize", quantize},
    {"f32_qd8_quantize_columns", quantize_columns},
    {"qd8_f32_qc2w", gemm_2},
    {"qd8_f32_qc4w", gemm_4},
    {"qd8_f32_qc8w", gemm_8},
    {"qd8_f32_qc8w_conv2d", int8_conv},
    {"qd8_f32_qc2w_conv2d", ternary_conv},
    {"f32_gemm", float_gemm},
    {"f32_conv2d", float_conv},
    {"f32_layer_norm", layer_norm},
    {"f32_softmax", softmax},
    {"f32_largest", largest},
    {"f32_attention", attention},
    {"qd8_attention", integer_attention},
};
enum { KERNELS = sizeof kernels / sizeof kernels[0] };

/* Whether a table has the entry point kernels[i] from scalar. */
static bool shared_with_scalar(const edge_kernels *t, size_t i) {
  const bool shared[KERNELS] = {
      t->f32_qd8_quantize == scalar->f32_qd8_quantize,
      t->f32_qd8_quantize_columns == scalar->f32_qd8_quantize_columns,
      t->qd8_f32_qc2w.run == scalar->qd8_f32_qc2w.run,
      t->qd8_f32_qc4w.run == scalar->qd8_f32_qc4w.run,
      t->qd8_f32_qc8w.run == scalar->qd8_f32_qc8w.run,
      t->qd8_f32_qc8w_conv2d.run == scalar->qd8_f32_qc8w_conv2d.run &&
          t->qd8_f32_qc8w_conv2d.quantize == scalar->qd8_f32_qc8w_conv2d.quantize,
      t->qd8_f32_qc2w_conv2d.run == scalar->qd8_f32_qc2w_conv2d.run,
      t->f32_gemm == scalar->f32_gemm,
      t->f32_conv2d.run == scalar->f32_conv2d.run,
      t->f32_layer_norm == scalar->f32_layer_norm,
      t->f32_softmax == scalar->f32_softmax,
      t->f32_largest == scalar->f32_largest,
      t->f32_attention.run == scalar->f32_attention.run,
      t->qd8_attention.run == scalar->qd8_attention.run,
  };
  return shared[i];
}

int main(int count, char **words) {
  const uint64_t seed = count > 1 ? strtoull(words[1], NULL, 10) : 1;
  const size_t cases = count > 2 ? strtoul(words[2], NULL, 10) : 200;
  const char *isa = count > 3 ? words[3] : NULL, *name = count > 4 ? words[4] : NULL;
  const size_t only = count > 5 ? strtoul(words[5], NULL, 10) : SIZE_MAX;
  const edge_kernels *tested;
  for (size_t i = 0; (tested = edge_kernels_at(i)) != NULL; ++i) {
    if (tested == scalar || (isa != NULL && strcmp(isa, tested->isa) != 0)) continue;
    for (size_t j = 0; j < KERNELS; ++j) {
      if (shared_with_scalar(tested, j) || (name != NULL && strcmp(name, kernels[j].name) != 0)) continue;
      size_t compared = 0;
      for (size_t c = only < cases ? only : 0; c < cases && (only == SIZE_MAX || c == only); ++c) {
        random_state = (seed * 64 + j) << 32 | c;
        random_bits();
        compared += kernels[j].compare(tested);
        release_all();
        if (difference[0]) {
          printf("%s %s: %s (%s)\nagain: compare_kernels %llu %zu %s %s %zu\n", tested->isa, kernels[j].name,
                 difference, shape, (unsigned long long)seed, cases, tested->isa, kernels[j].name, c);
          return 1;
        }
      }
      printf("%s %s %zu\n", tested->isa, kernels[j].name, compared);
      fflush(stdout);
    }
  }
  return 0;
}
