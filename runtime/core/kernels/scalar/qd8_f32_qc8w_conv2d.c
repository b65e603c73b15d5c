/* Convolution of one int8 sample with int8 weights, one weight scale an output channel.
 *
 *   acc = sum over c, kh, kw of codes[c][y][x] * weight[o][c][kh][kw]       exact in int32; codes outside are zero
 *   out = epilogue(acc, o, row)
 *
 * The image is row by row, and in a row channel by channel. The loops go over the kernel position outside and the output
 * row inside, where they read and write in order.
 */
#include "kernels/scalar/conv2d_span.h"
#include "kernels/scalar/epilogue.h"
#include "kernels/scalar/scalar.h"

size_t edge_qd8_conv2d_image_bytes__scalar(const edge_conv2d *shape) {
  return (size_t)shape->channels * (size_t)shape->height * (size_t)shape->width;
}

size_t edge_qd8_conv2d_row_bytes__scalar(const edge_conv2d *shape) {
  return (size_t)shape->channels * (size_t)shape->width;
}

void edge_qd8_conv2d_quantize_rows__scalar(const edge_conv2d *shape, const float *x, bool channels_last,
                                           const edge_row *row, size_t first, size_t last, void *rows) {
  const size_t width = (size_t)shape->width, channels = (size_t)shape->channels, plane = (size_t)shape->height * width;
  int8_t *codes = rows;
  for (size_t y = first; y < last; ++y) {
    for (size_t c = 0; c < channels; ++c) {
      for (size_t p = y * width; p < (y + 1) * width; ++p) {
        *codes++ = edge_code_of(channels_last ? x[p * channels + c] : x[c * plane + p], row->scale, -127.0f);
      }
    }
  }
}

void edge_qd8_conv2d_quantize__scalar(const edge_conv2d *shape, const float *x, bool channels_last, void *image,
                                      edge_row *row) {
  *row = edge_scale_of_sample((size_t)shape->channels * (size_t)shape->height * (size_t)shape->width, x);
  edge_qd8_conv2d_quantize_rows__scalar(shape, x, channels_last, row, 0, (size_t)shape->height, image);
}

void edge_qd8_f32_qc8w_conv2d__scalar(const edge_qd8_conv2d *job, size_t first_row, size_t last_row) {
  const edge_conv2d *conv = &job->shape;
  const int8_t *codes = job->image, *weight = job->weight;
  const int32_t group_channels = conv->channels / conv->groups, group_outputs = conv->out_channels / conv->groups;
  const size_t width = (size_t)conv->width, line = (size_t)conv->channels * width;
  for (int32_t o = 0; o < conv->out_channels; ++o) {
    const int8_t *first = codes + (size_t)(o / group_outputs * group_channels) * width;
    for (int32_t y = (int32_t)first_row; y < (int32_t)last_row; ++y) {
      for (int32_t begin = 0; begin < conv->out_width; begin += EDGE_CONV_SPAN) {
        const int32_t end = begin + EDGE_CONV_SPAN < conv->out_width ? begin + EDGE_CONV_SPAN : conv->out_width;
        int32_t acc[EDGE_CONV_SPAN] = {0};
        const int8_t *w = weight + (size_t)o * (size_t)group_channels * (size_t)(conv->kernel_h * conv->kernel_w);
        for (int32_t c = 0; c < group_channels; ++c) {
          for (int32_t kh = 0; kh < conv->kernel_h; ++kh) {
            const int32_t row = y * conv->stride_h + kh * conv->dilation_h - conv->padding_h;
            for (int32_t kw = 0; kw < conv->kernel_w; ++kw) {
              const int32_t value = *w++;
              if (row < 0 || row >= conv->height) continue;
              const int8_t *in = first + (size_t)row * line + (size_t)c * width;
              const edge_span span = edge_conv_span(conv, kw, begin, end);
              if (conv->stride_w == 1) { /* apart, because it vectorizes */
                for (int32_t x = span.begin; x < span.end; ++x) acc[x - begin] += value * in[x + span.offset];
              } else {
                for (int32_t x = span.begin; x < span.end; ++x) {
                  acc[x - begin] += value * in[x * conv->stride_w + span.offset];
                }
              }
            }
          }
        }
        const size_t at = (size_t)y * (size_t)conv->out_width + (size_t)begin;
        for (int32_t x = 0; x < end - begin; ++x) {
          const float value = edge_dequantize(acc[x], (size_t)o, &job->row, &job->epilogue);
          edge_store(&job->out, at + (size_t)x, (size_t)o, value);
        }
      }
    }
  }
}
