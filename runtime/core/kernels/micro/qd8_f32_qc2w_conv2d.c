/* Ternary convolutions of a microcontroller: the pixels under the kernel become a row of codes, and two such rows go
 * through the processor's GEMM, which shares the work on the weights between them.
 *
 * The image has its channels last, so a row of the kernel is one run of bytes.
 */
#include "kernels/micro/micro.h"

#if defined(EDGE_BARE_METAL)

#include <string.h>

#define PIXELS 2

static size_t taps_of(const edge_conv2d *shape) {
  return (size_t)shape->channels * (size_t)shape->kernel_h * (size_t)shape->kernel_w;
}

static size_t padded_taps(const edge_conv2d *shape) {
  return (taps_of(shape) + EDGE_ROW_ALIGN - 1) / EDGE_ROW_ALIGN * EDGE_ROW_ALIGN;
}

size_t edge_qd8_f32_qc2w_conv2d_scratch__micro(const edge_conv2d *shape) {
  const edge_qd8_weights *kernel = &edge_kernels_at(0)->qd8_f32_qc2w;
  const size_t n = (size_t)shape->out_channels, taps = taps_of(shape);
  return PIXELS * padded_taps(shape) + (kernel->scratch_bytes != NULL ? kernel->scratch_bytes(n, taps) : 0);
}

/* As memcpy and memset, but quick where both ends are words. */
static int8_t *copy(int8_t *to, const int8_t *from, size_t count) {
  if ((((uintptr_t)to | (uintptr_t)from | count) & 3) != 0) {
    for (size_t i = 0; i < count; ++i) to[i] = from[i];
    return to + count;
  }
  uint32_t *words = (uint32_t *)(void *)to;
  const uint32_t *source = (const uint32_t *)(const void *)from;
  size_t left = count / 4;
  for (; left >= 4; left -= 4, words += 4, source += 4) {
    const uint32_t a = source[0], b = source[1], c = source[2], d = source[3];
    words[0] = a, words[1] = b, words[2] = c, words[3] = d;
  }
  while (left-- > 0) *words++ = *source++;
  return to + count;
}

static int8_t *clear(int8_t *to, size_t count) {
  for (size_t i = 0; i < count; ++i) to[i] = 0;
  return to + count;
}

/* The codes under the kernel at output (y, x), in the order of the weights. */
static void gather(const edge_conv2d *shape, const int8_t *image, int32_t y, int32_t x, int8_t *codes) {
  const size_t channels = (size_t)shape->channels, line = channels * (size_t)shape->width;
  const int32_t left = x * shape->stride_w - shape->padding_w;
  for (int32_t kh = 0; kh < shape->kernel_h; ++kh) {
    const int32_t row = y * shape->stride_h + kh * shape->dilation_h - shape->padding_h;
    const int8_t *from = image + (ptrdiff_t)row * (ptrdiff_t)line;
    if (row < 0 || row >= shape->height) {
      codes = clear(codes, channels * (size_t)shape->kernel_w);
    } else if (shape->dilation_w == 1) {
      const int32_t end = left + shape->kernel_w, first = left < 0 ? 0 : left;
      const int32_t last = end > shape->width ? shape->width : end;
      if (first >= last) {
        codes = clear(codes, channels * (size_t)shape->kernel_w);
        continue;
      }
      codes = clear(codes, channels * (size_t)(first - left));
      codes = copy(codes, from + channels * (size_t)first, channels * (size_t)(last - first));
      codes = clear(codes, channels * (size_t)(end - last));
    } else {
      for (int32_t kw = 0; kw < shape->kernel_w; ++kw) {
        const int32_t column = left + kw * shape->dilation_w;
        codes = column < 0 || column >= shape->width ? clear(codes, channels)
                                                     : copy(codes, from + channels * (size_t)column, channels);
      }
    }
  }
}

void edge_qd8_f32_qc2w_conv2d__micro(const edge_qd8_conv2d *conv, size_t first, size_t last) {
  const edge_conv2d *shape = &conv->shape;
  const edge_row row[PIXELS] = {conv->row, conv->row};
  const size_t taps = taps_of(shape), padded = padded_taps(shape), n = (size_t)shape->out_channels;
  int8_t *codes = conv->scratch;
  edge_qd8_gemm gemm = {
      .n = n,
      .k = taps,
      .padded = padded,
      .codes = codes,
      .row = row,
      .weight = conv->weight,
      .zero_point = 1,
      .epilogue = conv->epilogue,
      .out = conv->out,
      .scratch = codes + PIXELS * padded,
  };
  const edge_qd8_weights *kernel = &edge_kernels_at(0)->qd8_f32_qc2w;
  for (size_t r = 0; r < PIXELS; ++r) clear(codes + r * padded + taps, padded - taps);
  const size_t width = (size_t)shape->out_width, end = last * width;
  for (size_t pixel = first * width; pixel < end; pixel += gemm.rows) {
    gemm.rows = end - pixel < PIXELS ? end - pixel : PIXELS;
    for (size_t r = 0; r < gemm.rows; ++r) {
      gather(shape, conv->image, (int32_t)((pixel + r) / width), (int32_t)((pixel + r) % width), codes + r * padded);
    }
    const size_t at = pixel * conv->out.row_step;
    gemm.out.data = conv->out.data + at;
    if (conv->out.residual != NULL) gemm.out.residual = conv->out.residual + at;
    kernel->run(&gemm, 0, n);
  }
}

#endif
