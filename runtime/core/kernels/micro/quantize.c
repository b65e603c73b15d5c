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

/* A sample with its channels in `from` order, as an image with them in `to` order: true is last. */
static bool quantize_image(const edge_conv2d *shape, const float *x, bool from, bool to, int8_t *codes, edge_row *row) {
  const size_t plane = (size_t)shape->height * (size_t)shape->width, channels = (size_t)shape->channels;
  *row = (edge_row){0};
  if (!scale_of(edge_micro_largest(channels * plane, x, 1, 0), row)) return false;
  if (from == to || channels == 1 || plane == 1) {
    edge_micro_codes(channels * plane, x, 1, row->scale, codes, 1);
    return true;
  }
  for (size_t c = 0; c < channels; ++c) {
    if (from) {
      edge_micro_codes(plane, x + c, channels, row->scale, codes + c * plane, 1);
    } else {
      edge_micro_codes(plane, x + c * plane, 1, row->scale, codes + c, channels);
    }
  }
  return true;
}

void edge_qd8_conv2d_quantize__micro(const edge_conv2d *shape, const float *x, bool channels_last, void *image,
                                     edge_row *row) {
  if (!quantize_image(shape, x, channels_last, false, image, row)) {
    edge_qd8_conv2d_quantize__scalar(shape, x, channels_last, image, row);
  }
}

void edge_qd8_f32_qc2w_conv2d_quantize__micro(const edge_conv2d *shape, const float *x, bool channels_last, void *image,
                                              edge_row *row) {
  if (!quantize_image(shape, x, channels_last, true, image, row)) {
    edge_qd8_f32_qc2w_conv2d_quantize__scalar(shape, x, channels_last, image, row);
  }
}

#endif
