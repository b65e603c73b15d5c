/* Convolutions with ternary weights as products of the same table's 2-bit GEMM; the contract is that of
 * scalar/qd8_f32_qc2w_conv2d.c.
 *
 * The image has its channels last and the convolution's padding around it; behind the codes is for each pixel of the
 * output the sum of those that it meets. A pixel of the output is a row of the product: the runs of codes that it meets, one a kernel row (one a
 * kernel column too where it is dilated), are copied side by side, as its weights are in the file.
 */
#ifndef EDGE_KERNELS_SIMD_QC2W_CONV2D_H
#define EDGE_KERNELS_SIMD_QC2W_CONV2D_H

#include <string.h>

#include "kernels/kernels.h"

/* Codes that are copied at once; so many behind a run are read, and overwritten. */
#define TAPS_AT_ONCE 16

typedef struct taps_layout {
  size_t across, down; /* pixels of the padded image */
  size_t channels, depth, padded;
  size_t runs, run, run_step; /* of a kernel row: how many, their length and the codes from one to the next */
} taps_layout;

static inline taps_layout taps_layout_of(const edge_conv2d *shape) {
  const size_t channels = (size_t)shape->channels, wide = (size_t)shape->kernel_w;
  const bool dilated = shape->dilation_w != 1 && wide > 1;
  taps_layout layout = {
      .across = (size_t)shape->width + 2 * (size_t)shape->padding_w,
      .down = (size_t)shape->height + 2 * (size_t)shape->padding_h,
      .channels = channels,
      .depth = (size_t)shape->kernel_h * wide * channels,
      .runs = dilated ? wide : 1,
      .run = dilated ? channels : wide * channels,
      .run_step = (size_t)shape->dilation_w * channels,
  };
  layout.padded = (layout.depth + EDGE_ROW_ALIGN - 1) / EDGE_ROW_ALIGN * EDGE_ROW_ALIGN;
  return layout;
}

/* With more padding than that, the padded image would be mostly that. */
static inline bool taps_serve(const edge_conv2d *shape) { return shape->padding_h <= 64 && shape->padding_w <= 64; }

/* Of the codes alone: what the table's image of an int8 convolution takes, so that its `quantize` serves here. */
static inline size_t taps_codes_bytes(const edge_conv2d *shape, size_t image_bytes) {
  const taps_layout layout = taps_layout_of(shape);
  const size_t least = layout.across * layout.down * layout.channels + TAPS_AT_ONCE;
  return ((image_bytes > least ? image_bytes : least) + 15) / 16 * 16;
}

static inline size_t taps_image_bytes(const edge_conv2d *shape, size_t image_bytes) {
  const taps_layout layout = taps_layout_of(shape);
  const size_t sums = layout.across * layout.down + (size_t)shape->out_height * (size_t)shape->out_width;
  return taps_codes_bytes(shape, image_bytes) + sums * sizeof(int32_t);
}

/* Pixels of the padded image from one kernel row and one kernel column to the next. */
static inline size_t taps_row_step(const edge_conv2d *shape, const taps_layout *layout) {
  return (size_t)shape->dilation_h * layout->across;
}

static inline const int32_t *taps_sums(const edge_conv2d *shape, const void *image, size_t image_bytes) {
  return (const int32_t *)(const void *)((const char *)image + taps_codes_bytes(shape, image_bytes));
}

/* First of each pixel, which come behind them. */
static inline void taps_sum(const edge_conv2d *shape, void *image, size_t image_bytes) {
  const taps_layout layout = taps_layout_of(shape);
  const size_t width = (size_t)shape->out_width, stride = (size_t)shape->stride_w;
  const int8_t *code = image;
  int32_t *sums = (int32_t *)(void *)((char *)image + taps_codes_bytes(shape, image_bytes));
  int32_t *pixels = sums + (size_t)shape->out_height * width;
  for (size_t p = 0; p < layout.across * layout.down; ++p, code += layout.channels) {
    int32_t sum = 0;
    for (size_t c = 0; c < layout.channels; ++c) sum += code[c];
    pixels[p] = sum;
  }
  for (size_t y = 0; y < (size_t)shape->out_height; ++y, sums += width) {
    const int32_t *line = pixels + y * (size_t)shape->stride_h * layout.across;
    memset(sums, 0, width * sizeof *sums);
    for (size_t d = 0; d < (size_t)shape->kernel_h; ++d, line += taps_row_step(shape, &layout)) {
      for (size_t a = 0; a < (size_t)shape->kernel_w; ++a) {
        const int32_t *from = line + a * (size_t)shape->dilation_w;
        if (stride == 1) { /* apart, because it vectorizes */
          for (size_t x = 0; x < width; ++x) sums[x] += from[x];
        } else {
          for (size_t x = 0; x < width; ++x) sums[x] += from[x * stride];
        }
      }
    }
  }
}

static inline size_t taps_scratch_bytes(const edge_conv2d *shape) {
  return EDGE_ROW_BLOCK * taps_layout_of(shape).padded + TAPS_AT_ONCE;
}

/* The row of codes that meets the weights, of the output pixel whose first code is `code`. What is copied beyond a run,
 * the next one overwrites, and the zeros at the end what is beyond the last. */
static inline void taps_gather(const taps_layout *layout, size_t kernel_h, size_t down_step, const int8_t *code,
                               int8_t *to) {
  int8_t *end = to + layout->padded;
  for (size_t d = 0; d < kernel_h; ++d, code += down_step) {
    const int8_t *from = code;
    for (size_t a = 0; a < layout->runs; ++a, from += layout->run_step, to += layout->run) {
      for (size_t i = 0; i < layout->run; i += TAPS_AT_ONCE) memcpy(to + i, from + i, TAPS_AT_ONCE);
    }
  }
  memset(to, 0, (size_t)(end - to));
}

/* Output rows first .. last - 1. */
static inline void taps_convolve(const edge_qd8_conv2d *conv, size_t image_bytes, size_t first, size_t last,
                                 void (*gemm)(const edge_qd8_gemm *, size_t, size_t)) {
  const edge_conv2d *shape = &conv->shape;
  const taps_layout layout = taps_layout_of(shape);
  const int8_t *codes = conv->image;
  const int32_t *sums = taps_sums(shape, conv->image, image_bytes);
  const size_t width = (size_t)shape->out_width, end = last * width;
  const size_t down_step = taps_row_step(&conv->shape, &layout) * layout.channels;
  edge_row row[EDGE_ROW_BLOCK];
  size_t x = 0, line = first * (size_t)shape->stride_h * layout.across;
  for (size_t begin = first * width; begin < end; begin += EDGE_ROW_BLOCK) {
    const size_t count = end - begin < EDGE_ROW_BLOCK ? end - begin : EDGE_ROW_BLOCK;
    for (size_t r = 0; r < count; ++r) {
      const size_t pixel = line + x * (size_t)shape->stride_w;
      taps_gather(&layout, (size_t)shape->kernel_h, down_step, codes + pixel * layout.channels,
                  (int8_t *)conv->scratch + r * layout.padded);
      row[r] = conv->row;
      row[r].sum = sums[begin + r];
      if (++x < width) continue;
      x = 0;
      line += (size_t)shape->stride_h * layout.across;
    }
    edge_qd8_gemm product = {
        .rows = count,
        .n = (size_t)shape->out_channels,
        .k = layout.depth,
        .padded = layout.padded,
        .codes = conv->scratch,
        .row = row,
        .weight = conv->weight,
        .zero_point = 1,
        .epilogue = conv->epilogue,
        .out = conv->out,
    };
    product.out.data += begin * product.out.row_step;
    if (product.out.residual != NULL) product.out.residual += begin * product.out.row_step;
    gemm(&product, 0, product.n);
  }
}

/* The functions of a table, from its GEMM and from what quantizes the sample of its int8 convolutions. `...` stands for
 * those two, image_bytes and quantize. */
#define EDGE_DEFINE_TERNARY_CONV2D(isa, ...) EDGE_DEFINE_TERNARY_CONV2D_WITH(isa, __VA_ARGS__)
#define EDGE_DEFINE_TERNARY_CONV2D_WITH(isa, codes_bytes, quantize_codes)                                             \
  static size_t ternary_conv2d_packed_bytes__##isa(const edge_conv2d *shape) {                                        \
    if (!taps_serve(shape)) return 0;                                                                                 \
    return edge_qd8_f32_qc2w_packed_bytes__##isa((size_t)shape->out_channels, taps_layout_of(shape).depth);           \
  }                                                                                                                   \
  static void ternary_conv2d_pack__##isa(const edge_conv2d *shape, const void *weight, void *packed) {                \
    edge_qd8_f32_qc2w_pack__##isa((size_t)shape->out_channels, taps_layout_of(shape).depth, weight, packed);          \
  }                                                                                                                   \
  static size_t ternary_conv2d_image_bytes__##isa(const edge_conv2d *shape) {                                         \
    return taps_image_bytes(shape, codes_bytes(shape));                                                               \
  }                                                                                                                   \
  static void ternary_conv2d_quantize__##isa(const edge_conv2d *shape, const float *x, bool channels_last,            \
                                             void *image, edge_row *row) {                                            \
    quantize_codes(shape, x, channels_last, image, row);                                                              \
    taps_sum(shape, image, codes_bytes(shape));                                                                       \
  }                                                                                                                   \
  static void ternary_conv2d__##isa(const edge_qd8_conv2d *conv, size_t first, size_t last) {                         \
    taps_convolve(conv, codes_bytes(&conv->shape), first, last, edge_qd8_f32_qc2w_gemm__##isa);                       \
  }
#define EDGE_TERNARY_CONV2D(isa)                                                                                      \
  {                                                                                                                   \
    ternary_conv2d_packed_bytes__##isa, ternary_conv2d_pack__##isa, ternary_conv2d_image_bytes__##isa,                \
        ternary_conv2d_quantize__##isa, ternary_conv2d__##isa, taps_scratch_bytes                                     \
  }

#endif
