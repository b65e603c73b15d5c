/* Convolution of one int8 sample with ternary weights, four codes w + 1 a byte; groups is 1.
 *
 *   acc = sum over kh, kw, c of codes[y][x][c] * (code[o][kh][kw][c] - 1)       exact in int32; codes outside are zero
 *   out = epilogue(acc, o, row)
 *
 * The image has its channels last: the codes of a pixel are one run, as their weights are. Weights are unpacked once for
 * a part of a row of outputs, some at a time.
 */
#include "kernels/scalar/conv2d_span.h"
#include "kernels/scalar/dot.h"
#include "kernels/scalar/epilogue.h"
#include "kernels/scalar/scalar.h"

size_t edge_qd8_f32_qc2w_conv2d_image_bytes__scalar(const edge_conv2d *shape) {
  return (size_t)shape->channels * (size_t)shape->height * (size_t)shape->width;
}

void edge_qd8_f32_qc2w_conv2d_quantize_rows__scalar(const edge_conv2d *shape, const float *x, bool channels_last,
                                                    const edge_row *row, size_t first, size_t last, void *rows) {
  const size_t width = (size_t)shape->width, channels = (size_t)shape->channels, plane = (size_t)shape->height * width;
  int8_t *codes = rows;
  for (size_t p = first * width; p < last * width; ++p) {
    for (size_t c = 0; c < channels; ++c) {
      *codes++ = edge_code_of(channels_last ? x[p * channels + c] : x[c * plane + p], row->scale, -127.0f);
    }
  }
}

void edge_qd8_f32_qc2w_conv2d_quantize__scalar(const edge_conv2d *shape, const float *x, bool channels_last,
                                               void *image, edge_row *row) {
  *row = edge_scale_of_sample((size_t)shape->channels * (size_t)shape->height * (size_t)shape->width, x);
  edge_qd8_f32_qc2w_conv2d_quantize_rows__scalar(shape, x, channels_last, row, 0, (size_t)shape->height, image);
}

void edge_qd8_f32_qc2w_conv2d__scalar(const edge_qd8_conv2d *job, size_t first_row, size_t last_row) {
  const edge_conv2d *conv = &job->shape;
  const size_t channels = (size_t)conv->channels;
  const size_t bytes = (channels * (size_t)conv->kernel_h * (size_t)conv->kernel_w + 3) / 4;
  for (int32_t o = 0; o < conv->out_channels; ++o) {
    const uint8_t *weight = (const uint8_t *)job->weight + (size_t)o * bytes;
    for (int32_t y = (int32_t)first_row; y < (int32_t)last_row; ++y) {
      for (int32_t begin = 0; begin < conv->out_width; begin += EDGE_CONV_SPAN) {
        const int32_t end = begin + EDGE_CONV_SPAN < conv->out_width ? begin + EDGE_CONV_SPAN : conv->out_width;
        int32_t acc[EDGE_CONV_SPAN] = {0};
        size_t k = 0; /* the weight that kh, kw and c name */
        for (int32_t kh = 0; kh < conv->kernel_h; ++kh) {
          const int32_t row = y * conv->stride_h + kh * conv->dilation_h - conv->padding_h;
          if (row < 0 || row >= conv->height) {
            k += (size_t)conv->kernel_w * channels;
            continue;
          }
          for (int32_t kw = 0; kw < conv->kernel_w; ++kw) {
            const edge_span span = edge_conv_span(conv, kw, begin, end);
            for (size_t c = 0, count; c < channels; c += count, k += count) {
              count = channels - c < EDGE_UNPACK ? channels - c : EDGE_UNPACK;
              int8_t unpacked[EDGE_UNPACK];
              for (size_t i = 0; i < count; ++i) {
                unpacked[i] = (int8_t)((weight[(k + i) / 4] >> (k + i) % 4 * 2 & 3) - 1);
              }
              for (int32_t x = span.begin; x < span.end; ++x) {
                const size_t pixel = (size_t)row * (size_t)conv->width + (size_t)(x * conv->stride_w + span.offset);
                acc[x - begin] += edge_dot_s8(count, (const int8_t *)job->image + pixel * channels + c, unpacked);
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
