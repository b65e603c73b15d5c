/* What convolutions of codes on a microcontroller have in common: sizes of their image, and the scale of a sample; see
 * f32_qd8_quantize.c. */
#include "kernels/micro/quantize.h"

#if defined(EDGE_BARE_METAL)

/* The sum tells the rows' quantizer that the sample is the scalar kernel's; a floating-point unit makes the same codes of
 * it, because NaN becomes 0, and what NaN leaves is within the scale. */
edge_row edge_qd8_conv2d_scale__micro(size_t count, const float *x) {
  edge_row row = {0};
  if (edge_micro_scale_of(edge_micro_largest(count, x, 1, 0), &row)) return row;
  row = edge_scale_of_sample(count, x);
  row.sum = 1;
  return row;
}

size_t edge_qd8_conv2d_row_bytes__micro(const edge_conv2d *shape) {
  return (size_t)shape->channels * (size_t)shape->width;
}

size_t edge_qd8_conv2d_image_bytes__micro(const edge_conv2d *shape) {
  return edge_qd8_conv2d_row_bytes__micro(shape) * (size_t)shape->height;
}

#endif
