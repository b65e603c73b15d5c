/* Float convolution of one sample.
 *
 *   acc = 0;  acc = acc + x[c][y][x] * weight[o][c][kh][kw] in the order c, kh, kw, positions outside left out
 *   y = acc + bias[o];  y = activation(y);  out = residual + y
 */
#include "kernels/scalar/conv2d_span.h"
#include "kernels/scalar/epilogue.h"
#include "kernels/scalar/scalar.h"

/* Outputs begin .. end - 1 of row y, channel o. */
static void convolve(const edge_f32_conv2d *job, size_t o, int32_t y, int32_t begin, int32_t end) {
  const edge_conv2d *conv = &job->shape;
  const size_t group_channels = (size_t)(conv->channels / conv->groups);
  const size_t plane = (size_t)conv->height * (size_t)conv->width;
  const size_t step = job->channels_last ? (size_t)conv->channels : 1, channel = job->channels_last ? 1 : plane;
  const float *first = job->x + o / (size_t)(conv->out_channels / conv->groups) * group_channels * channel;
  const float *w = job->weight + o * group_channels * (size_t)(conv->kernel_h * conv->kernel_w);
  float acc[EDGE_CONV_SPAN] = {0};
  for (size_t c = 0; c < group_channels; ++c) {
    for (int32_t kh = 0; kh < conv->kernel_h; ++kh) {
      const int32_t row = y * conv->stride_h + kh * conv->dilation_h - conv->padding_h;
      for (int32_t kw = 0; kw < conv->kernel_w; ++kw) {
        const float value = *w++;
        if (row < 0 || row >= conv->height) continue;
        const float *in = first + c * channel + (size_t)row * (size_t)conv->width * step;
        const edge_span span = edge_conv_span(conv, kw, begin, end);
        if (conv->stride_w == 1 && step == 1) { /* apart, because it vectorizes */
          for (int32_t i = span.begin; i < span.end; ++i) acc[i - begin] += value * in[i + span.offset];
        } else {
          for (int32_t i = span.begin; i < span.end; ++i) {
            acc[i - begin] += value * in[(size_t)(i * conv->stride_w + span.offset) * step];
          }
        }
      }
    }
  }
  for (int32_t i = 0; i < end - begin; ++i) {
    float value = acc[i];
    if (job->bias != NULL) value += job->bias[o];
    edge_store(&job->out, (size_t)y * (size_t)conv->out_width + (size_t)(begin + i), o,
               edge_activatef(value, job->activation));
  }
}

void edge_f32_conv2d__scalar(const edge_f32_conv2d *job, const edge_conv_part *part) {
  const size_t width = (size_t)job->shape.out_width;
  for (size_t o = part->first_channel; o < part->last_channel; ++o) {
    for (size_t pixel = part->first_pixel; pixel < part->last_pixel;) {
      const size_t column = pixel % width;
      size_t count = width - column < EDGE_CONV_SPAN ? width - column : EDGE_CONV_SPAN;
      if (count > part->last_pixel - pixel) count = part->last_pixel - pixel;
      convolve(job, o, (int32_t)(pixel / width), (int32_t)column, (int32_t)(column + count));
      pixel += count;
    }
  }
}
