/* The layers of a trainable tail, forward and back, in float32. Every sum is in the order that the loops show, from 0;
 * a forward product is on the core's kernels, whose order is the same on every machine.
 *
 * On the way back a layer finds the gradient of its outputs where the outputs were, and leaves that of its inputs where
 * those were: no layer's activations are needed behind it. It is taken through the slope of the activation function that
 * the inputs came from while their values are still there.
 */
#include <string.h>

#include "kernels/math_f32.h"
#include "learn/chain.h"

/* Inputs of a dense layer whose gradients are summed side by side, while their weights are still the old ones. */
enum { COLUMNS = 16 };

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

float edge_slope(float y, int activation) {
  switch (activation) {
    case EDGE_ACT_RELU: return y > 0.0f ? 1.0f : 0.0f;
    case EDGE_ACT_RELU6: return y > 0.0f && y < 6.0f ? 1.0f : 0.0f;
    case EDGE_ACT_SIGMOID: return y * (1.0f - y);
    case EDGE_ACT_TANH: return 1.0f - y * y;
    default: return 1.0f;
  }
}

/* --- windows ------------------------------------------------------------------------------------------------------ */

/* Where tap (kh, kw) of output (oy, ox) lies in a plane; false outside of it. */
static bool tap(const edge_conv2d *window, int32_t oy, int32_t ox, int32_t kh, int32_t kw, size_t *at) {
  const int32_t y = oy * window->stride_h + kh * window->dilation_h - window->padding_h;
  const int32_t x = ox * window->stride_w + kw * window->dilation_w - window->padding_w;
  *at = (size_t)y * (size_t)window->width + (size_t)x;
  return y >= 0 && y < window->height && x >= 0 && x < window->width;
}

static size_t plane_of(const edge_conv2d *window) { return (size_t)window->height * (size_t)window->width; }

/* The largest value of a window, the first of equals, or a NaN; false where the window is all padding. */
static bool largest(const edge_conv2d *window, const float *plane, int32_t oy, int32_t ox, size_t *found) {
  bool any = false;
  size_t at;
  for (int32_t kh = 0; kh < window->kernel_h; ++kh) {
    for (int32_t kw = 0; kw < window->kernel_w; ++kw) {
      if (!tap(window, oy, ox, kh, kw, &at)) continue;
      if (any && !(plane[at] > plane[*found]) && plane[at] == plane[at]) continue;
      *found = at;
      any = true;
    }
  }
  return any;
}

static float mean(const edge_conv2d *window, const float *plane, int32_t oy, int32_t ox, float share) {
  float sum = 0.0f;
  size_t at;
  for (int32_t kh = 0; kh < window->kernel_h; ++kh) {
    for (int32_t kw = 0; kw < window->kernel_w; ++kw) {
      if (tap(window, oy, ox, kh, kw, &at)) sum += plane[at];
    }
  }
  return sum * share;
}

static float share_of(const edge_conv2d *window) { return 1.0f / (float)(window->kernel_h * window->kernel_w); }

static void pool(const edge_layer *layer, const float *x) {
  const edge_conv2d *window = layer->window;
  const float share = share_of(window);
  float *y = layer->y;
  size_t at = 0;
  for (int32_t c = 0; c < window->channels; ++c, x += plane_of(window)) {
    for (int32_t oy = 0; oy < window->out_height; ++oy) {
      for (int32_t ox = 0; ox < window->out_width; ++ox) {
        if (layer->kind == EDGE_LAYER_MEAN_POOL) {
          *y++ = mean(window, x, oy, ox, share);
        } else {
          *y++ = largest(window, x, oy, ox, &at) ? x[at] : -INFINITY;
        }
      }
    }
  }
}

static void pool_back(const edge_layer *layer, float *x, int before, float *plane) {
  const edge_conv2d *window = layer->window;
  const size_t size = plane_of(window);
  const float share = share_of(window), *gradient = layer->y;
  for (int32_t c = 0; c < window->channels; ++c, x += size) {
    memset(plane, 0, size * sizeof *plane);
    for (int32_t oy = 0; oy < window->out_height; ++oy) {
      for (int32_t ox = 0; ox < window->out_width; ++ox) {
        const float g = *gradient++;
        size_t at = 0;
        if (layer->kind == EDGE_LAYER_MAX_POOL) {
          if (largest(window, x, oy, ox, &at)) plane[at] += g;
          continue;
        }
        for (int32_t kh = 0; kh < window->kernel_h; ++kh) {
          for (int32_t kw = 0; kw < window->kernel_w; ++kw) {
            if (tap(window, oy, ox, kh, kw, &at)) plane[at] += g * share;
          }
        }
      }
    }
    for (size_t i = 0; i < size; ++i) x[i] = plane[i] * edge_slope(x[i], before);
  }
}

/* --- convolution -------------------------------------------------------------------------------------------------- */

static void convolve(const edge_layer *layer, const float *x) {
  const edge_conv2d *window = layer->window;
  const size_t pixels = (size_t)window->out_height * (size_t)window->out_width;
  const edge_f32_conv2d conv = {
      .shape = *window,
      .x = x,
      .weight = layer->weights,
      .bias = layer->weights + (size_t)layer->rows * layer->depth,
      .out = {.data = layer->y, .row_step = 1, .step = pixels},
  };
  const edge_conv_part all = {0, pixels, 0, (size_t)window->out_channels};
  edge_kernels_scalar.f32_conv2d.run(&conv, &all);
}

/* One weight: its own gradient is summed over the outputs, and what it passes on is added to the plane of its input. */
static float correlate(const edge_conv2d *window, const float *gradient, const float *x, int32_t kh, int32_t kw,
                       float weight, float *plane) {
  float sum = 0.0f;
  size_t at;
  for (int32_t oy = 0; oy < window->out_height; ++oy) {
    for (int32_t ox = 0; ox < window->out_width; ++ox, ++gradient) {
      if (!tap(window, oy, ox, kh, kw, &at)) continue;
      sum += *gradient * x[at];
      if (plane != NULL) plane[at] += weight * *gradient;
    }
  }
  return sum;
}

static void convolve_back(const edge_layer *layer, float *x, bool first, int before, float rate, float *plane) {
  const edge_conv2d *window = layer->window;
  const size_t size = plane_of(window), pixels = (size_t)window->out_height * (size_t)window->out_width;
  const int32_t depth = window->channels / window->groups, width = window->out_channels / window->groups;
  const size_t taps = (size_t)(window->kernel_h * window->kernel_w);
  float *planes = first ? NULL : plane;
  for (int32_t c = 0; c < window->channels; ++c, x += size) {
    if (!first) memset(plane, 0, size * sizeof *plane);
    const int32_t begin = c / depth * width;
    for (int32_t o = begin; o < begin + width; ++o) {
      float *weight = layer->weights + ((size_t)o * (size_t)depth + (size_t)(c % depth)) * taps;
      for (int32_t kh = 0; kh < window->kernel_h; ++kh) {
        for (int32_t kw = 0; kw < window->kernel_w; ++kw, ++weight) {
          *weight -= rate * correlate(window, layer->y + (size_t)o * pixels, x, kh, kw, *weight, planes);
        }
      }
    }
    if (first) continue;
    for (size_t i = 0; i < size; ++i) x[i] = plane[i] * edge_slope(x[i], before);
  }
  float *bias = layer->weights + (size_t)layer->rows * layer->depth;
  for (uint32_t o = 0; o < layer->rows; ++o) {
    const float *gradient = layer->y + (size_t)o * pixels;
    float sum = 0.0f;
    for (size_t i = 0; i < pixels; ++i) sum += gradient[i];
    bias[o] -= rate * sum;
  }
}

/* --- dense -------------------------------------------------------------------------------------------------------- */

static void multiply(const edge_layer *layer, const float *x) {
  const size_t n = layer->rows, k = layer->depth;
  const edge_output_view out = {layer->y, NULL, n, 1};
  layer->call->kernels->f32_gemm(1, n, k, (edge_matrix){x, k, 1}, (edge_matrix){layer->weights, k, 1},
                                 layer->weights + n * k, EDGE_ACT_NONE, &out);
}

static void multiply_back(const edge_layer *layer, float *x, bool first, int before, float rate) {
  const size_t rows = layer->rows, depth = layer->depth;
  const float *gradient = layer->y;
  for (size_t k = 0; k < depth; k += COLUMNS) {
    const size_t columns = smaller(depth - k, COLUMNS);
    float sum[COLUMNS] = {0};
    for (size_t n = 0; n < rows; ++n) {
      float *weight = layer->weights + n * depth + k;
      const float g = gradient[n], step = rate * g;
      for (size_t i = 0; i < columns; ++i) {
        sum[i] += weight[i] * g;
        weight[i] -= step * x[k + i];
      }
    }
    if (first) continue;
    for (size_t i = 0; i < columns; ++i) x[k + i] = sum[i] * edge_slope(x[k + i], before);
  }
  float *bias = layer->weights + rows * depth;
  for (size_t n = 0; n < rows; ++n) bias[n] -= rate * gradient[n];
}

/* --- norm --------------------------------------------------------------------------------------------------------- */

static void normalize(edge_layer *layer, const float *x) {
  layer->call->kernels->f32_layer_norm(1, layer->inputs, x, NULL, NULL, layer->eps, layer->y, &layer->mean,
                                       &layer->rstd);
}

static void normalize_back(const edge_layer *layer, float *x, int before) {
  const size_t k = layer->inputs;
  const float *gradient = layer->y, share = 1.0f / (float)k;
  float sum = 0.0f, moment = 0.0f;
  for (size_t i = 0; i < k; ++i) {
    sum += gradient[i];
    moment += gradient[i] * ((x[i] - layer->mean) * layer->rstd);
  }
  const float mean_gradient = sum * share, mean_moment = moment * share;
  for (size_t i = 0; i < k; ++i) {
    const float normal = (x[i] - layer->mean) * layer->rstd;
    x[i] = layer->rstd * ((gradient[i] - mean_gradient) - normal * mean_moment) * edge_slope(x[i], before);
  }
}

void edge_layer_forward(edge_layer *layer, const float *x) {
  switch (layer->kind) {
    case EDGE_LAYER_DENSE: multiply(layer, x); break;
    case EDGE_LAYER_CONVOLUTION: convolve(layer, x); break;
    case EDGE_LAYER_NORM: normalize(layer, x); break;
    default: pool(layer, x);
  }
  if (layer->activation == EDGE_ACT_NONE) return;
  for (uint32_t i = 0; i < layer->outputs; ++i) layer->y[i] = edge_activatef(layer->y[i], layer->activation);
}

void edge_layer_back(const edge_layer *layer, float *x, bool first, int before, float rate, float *plane) {
  switch (layer->kind) {
    case EDGE_LAYER_DENSE: multiply_back(layer, x, first, before, rate); break;
    case EDGE_LAYER_CONVOLUTION: convolve_back(layer, x, first, before, rate, plane); break;
    case EDGE_LAYER_NORM:
      if (!first) normalize_back(layer, x, before);
      break;
    default: pool_back(layer, x, before, plane);
  }
}
