/* Float convolution of one sample.
 *
 *   acc = 0;  acc = acc + x[c][y][x] * weight[o][c][kh][kw] in the order c, kh, kw, positions outside left out
 *   y = acc + bias[o];  y = activation(y);  out = residual + y
 */
#include "kernels/math_f32.h"
#include "kernels/scalar/conv2d_span.h"
#include "kernels/scalar/scalar.h"

void edge_f32_conv2d__scalar(const edge_conv2d *conv, const float *x, const float *weight, const float *bias,
                             int activation, float *out, const float *residual) {
  const int32_t group_channels = conv->channels / conv->groups, group_outputs = conv->out_channels / conv->groups;
  const size_t plane = (size_t)conv->height * (size_t)conv->width;
  const size_t out_plane = (size_t)conv->out_height * (size_t)conv->out_width;
  for (int32_t o = 0; o < conv->out_channels; ++o) {
    const float *first = x + (size_t)(o / group_outputs * group_channels) * plane;
    for (int32_t y = 0; y < conv->out_height; ++y) {
      for (int32_t begin = 0; begin < conv->out_width; begin += EDGE_CONV_SPAN) {
        const int32_t end = begin + EDGE_CONV_SPAN < conv->out_width ? begin + EDGE_CONV_SPAN : conv->out_width;
        float acc[EDGE_CONV_SPAN] = {0};
        const float *w = weight + (size_t)o * (size_t)group_channels * (size_t)(conv->kernel_h * conv->kernel_w);
        for (int32_t c = 0; c < group_channels; ++c) {
          for (int32_t kh = 0; kh < conv->kernel_h; ++kh) {
            const int32_t row = y * conv->stride_h + kh * conv->dilation_h - conv->padding_h;
            for (int32_t kw = 0; kw < conv->kernel_w; ++kw) {
              const float value = *w++;
              if (row < 0 || row >= conv->height) continue;
              const float *in = first + (size_t)c * plane + (size_t)row * (size_t)conv->width;
              const edge_span span = edge_conv_span(conv, kw, begin, end);
              if (conv->stride_w == 1) { /* apart, because it vectorizes */
                for (int32_t i = span.begin; i < span.end; ++i) acc[i - begin] += value * in[i + span.offset];
              } else {
                for (int32_t i = span.begin; i < span.end; ++i) {
                  acc[i - begin] += value * in[i * conv->stride_w + span.offset];
                }
              }
            }
          }
        }
        const size_t at = (size_t)o * out_plane + (size_t)y * (size_t)conv->out_width + (size_t)begin;
        for (int32_t i = 0; i < end - begin; ++i) {
          float value = acc[i];
          if (bias != NULL) value += bias[o];
          value = edge_activatef(value, activation);
          out[at + (size_t)i] = residual != NULL ? residual[at + (size_t)i] + value : value;
        }
      }
    }
  }
}
