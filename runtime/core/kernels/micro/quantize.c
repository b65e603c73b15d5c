/* Quantizers of a microcontroller: scalar/f32_qd8_quantize.c has the contract.
 *
 * The bits of |x|, doubled, order as |x| does and are compared as integers, which processors without a floating-point unit
 * do as well. NaN and infinities lie above all numbers; rows that have some are the scalar kernel's, and so are those
 * that are normalized first. No code of the others is beyond 127: x times the scale is at most 127 and its rounding.
 */
#include "kernels/micro/micro.h"

#if defined(EDGE_BARE_METAL)

#include <string.h>

/* The scale for values the largest of which has these doubled bits; false where the scalar kernel must see to it. */
static bool scale_of(uint32_t doubled, edge_row *row) {
  if (doubled >= EDGE_MICRO_LARGEST) return false;
  const uint32_t bits = doubled >> 1;
  float amax;
  memcpy(&amax, &bits, sizeof amax);
  amax = amax > 1e-5f ? amax : 1e-5f;
  row->scale = (1.0f / amax) * 127.0f;
  row->step = 1.0f / row->scale;
  return true;
}

static bool quantize(size_t k, const float *x, size_t step, size_t padded, int8_t *codes, edge_row *row) {
  if (!scale_of(edge_micro_largest(k, x, step, 0), row)) return false;
  row->sum = edge_micro_codes(k, x, step, row->scale, codes, 1);
  memset(codes + k, 0, padded - k);
  return true;
}

void edge_f32_qd8_quantize__micro(size_t rows, size_t k, const float *x, float norm_eps, bool bitlinear_compat,
                                  size_t padded, int8_t *codes, edge_row *row) {
  for (size_t r = 0; r < rows; ++r, x += k, codes += padded) {
    if (norm_eps >= 0.0f || bitlinear_compat || !quantize(k, x, 1, padded, codes, &row[r])) {
      edge_f32_qd8_quantize__scalar(1, k, x, norm_eps, bitlinear_compat, padded, codes, &row[r]);
    }
  }
}

void edge_f32_qd8_quantize_columns__micro(size_t tokens, size_t k, const float *x, size_t step, float norm_eps,
                                          bool bitlinear_compat, size_t padded, int8_t *codes, edge_row *row) {
  for (size_t t = 0; t < tokens; ++t, ++x, codes += padded) {
    if (norm_eps >= 0.0f || bitlinear_compat || !quantize(k, x, step, padded, codes, &row[t])) {
      edge_f32_qd8_quantize_columns__scalar(1, k, x, step, norm_eps, bitlinear_compat, padded, codes, &row[t]);
    }
  }
}

/* The sum tells the rows' quantizer that the sample is the scalar kernel's. */
edge_row edge_qd8_conv2d_scale__micro(size_t count, const float *x) {
  edge_row row = {0};
  if (scale_of(edge_micro_largest(count, x, 1, 0), &row)) return row;
  row = edge_scale_of_sample(count, x);
  row.sum = 1;
  return row;
}

void edge_qd8_conv2d_quantize_rows__micro(const edge_conv2d *shape, const float *x, bool channels_last,
                                          const edge_row *row, size_t first, size_t last, void *rows) {
  const size_t width = (size_t)shape->width, channels = (size_t)shape->channels, plane = (size_t)shape->height * width;
  if (row->sum != 0) {
    edge_qd8_conv2d_quantize_rows__scalar(shape, x, channels_last, row, first, last, rows);
    return;
  }
  int8_t *codes = rows;
  for (size_t y = first; y < last; ++y) {
    for (size_t c = 0; c < channels; ++c, codes += width) {
      const float *from = channels_last ? x + y * width * channels + c : x + c * plane + y * width;
      edge_micro_codes(width, from, channels_last ? channels : 1, row->scale, codes, 1);
    }
  }
}

void edge_qd8_f32_qc2w_conv2d_quantize_rows__micro(const edge_conv2d *shape, const float *x, bool channels_last,
                                                   const edge_row *row, size_t first, size_t last, void *rows) {
  const size_t width = (size_t)shape->width, channels = (size_t)shape->channels, plane = (size_t)shape->height * width;
  const size_t pixels = (last - first) * width;
  if (row->sum != 0) {
    edge_qd8_f32_qc2w_conv2d_quantize_rows__scalar(shape, x, channels_last, row, first, last, rows);
  } else if (channels_last || channels == 1) {
    edge_micro_codes(pixels * channels, x + first * width * channels, 1, row->scale, rows, 1);
  } else {
    for (size_t c = 0; c < channels; ++c) {
      edge_micro_codes(pixels, x + c * plane + first * width, 1, row->scale, (int8_t *)rows + c, channels);
    }
  }
}

void edge_qd8_conv2d_quantize__micro(const edge_conv2d *shape, const float *x, bool channels_last, void *image,
                                     edge_row *row) {
  *row = edge_qd8_conv2d_scale__micro((size_t)shape->channels * (size_t)shape->height * (size_t)shape->width, x);
  edge_qd8_conv2d_quantize_rows__micro(shape, x, channels_last, row, 0, (size_t)shape->height, image);
}

void edge_qd8_f32_qc2w_conv2d_quantize__micro(const edge_conv2d *shape, const float *x, bool channels_last, void *image,
                                              edge_row *row) {
  *row = edge_qd8_conv2d_scale__micro((size_t)shape->channels * (size_t)shape->height * (size_t)shape->width, x);
  edge_qd8_f32_qc2w_conv2d_quantize_rows__micro(shape, x, channels_last, row, 0, (size_t)shape->height, image);
}

#endif
