/* The codes of a ternary convolution's sample on a microcontroller: channels last. */
#include "kernels/micro/micro.h"

#if defined(EDGE_BARE_METAL)

void edge_qd8_f32_qc2w_conv2d_quantize_rows__micro(const edge_conv2d *shape, const float *x, bool channels_last,
                                                   const edge_row *row, size_t first, size_t last, void *rows) {
  const size_t width = (size_t)shape->width, channels = (size_t)shape->channels, plane = (size_t)shape->height * width;
  const size_t pixels = (last - first) * width;
#if !defined(__ARM_FP)
  if (row->sum != 0) {
    edge_qd8_f32_qc2w_conv2d_quantize_rows__scalar(shape, x, channels_last, row, first, last, rows);
    return;
  }
#endif
  if (channels_last || channels == 1) {
    edge_micro_codes(pixels * channels, x + first * width * channels, 1, row->scale, rows, 1);
  } else {
    for (size_t c = 0; c < channels; ++c) {
      edge_micro_codes(pixels, x + c * plane + first * width, 1, row->scale, (int8_t *)rows + c, channels);
    }
  }
}

void edge_qd8_f32_qc2w_conv2d_quantize__micro(const edge_conv2d *shape, const float *x, bool channels_last, void *image,
                                              edge_row *row) {
  *row = edge_qd8_conv2d_scale__micro((size_t)shape->channels * (size_t)shape->height * (size_t)shape->width, x);
  edge_qd8_f32_qc2w_conv2d_quantize_rows__micro(shape, x, channels_last, row, 0, (size_t)shape->height, image);
}

#endif
