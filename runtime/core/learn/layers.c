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

/* Where tap `j` of output `i` lies in a plane, both counted row by row; false outside of it. */
static bool tap(const edge_conv2d *window, int32_t i, int32_t j, size_t *at) {
  const int32_t y = i / window->out_width * window->stride_h + j / window->kernel_w * window->dilation_h;
  const int32_t x = i % window->out_width * window->stride_w + j % window->kernel_w * window->dilation_w;
  const int32_t row = y - window->padding_h, column = x - window->padding_w;
  *at = (size_t)row * (size_t)window->width + (size_t)column;
  return row >= 0 && row < window->height && column >= 0 && column < window->width;
}

/* The gradients of values that came from an activation function, in their place. */
static void pass_on(float *x, const float *gradient, size_t count, int before) {
  for (size_t i = 0; i < count; ++i) x[i] = gradient[i] * edge_slope(x[i], before);
}

static float *biases_of(const edge_layer *layer) { return layer->weights + (size_t)layer->rows * layer->depth; }

static size_t plane_of(const edge_conv2d *window) { return (size_t)window->height * (size_t)window->width; }

/* Both pools, and their way back where `plane` is not NULL: then x becomes its gradient. The largest value of a window is
 * the first of equals, or a NaN; a window that is all padding has none. */
static void pool(const edge_layer *layer, float *x, int before, float *plane) {
  const edge_conv2d *window = layer->window;
  const size_t size = plane_of(window);
  const int32_t taps = window->kernel_h * window->kernel_w;
  const float share = 1.0f / (float)taps;
  const bool mean = layer->kind == EDGE_LAYER_MEAN_POOL;
  float *y = layer->y;
  for (int32_t c = 0; c < window->channels; ++c, x += size) {
    if (plane != NULL) memset(plane, 0, size * sizeof *plane);
    for (int32_t i = 0; i < window->out_height * window->out_width; ++i, ++y) {
      size_t at, top = size;
      float sum = 0.0f;
      for (int32_t j = 0; j < taps; ++j) {
        if (!tap(window, i, j, &at)) continue;
        sum += x[at];
        if (mean && plane != NULL) plane[at] += *y * share;
        if (top == size || x[at] > x[top] || x[at] != x[at]) top = at;
      }
      if (plane == NULL) {
        *y = mean ? sum * share : top < size ? x[top] : -INFINITY;
      } else if (!mean && top < size) {
        plane[top] += *y;
      }
    }
    if (plane != NULL) pass_on(x, plane, size, before);
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
      .bias = biases_of(layer),
      .activation = layer->activation,
      .out = {.data = layer->y, .row_step = 1, .step = pixels},
  };
  const edge_conv_part all = {0, pixels, 0, (size_t)window->out_channels};
#if defined(EDGE_BARE_METAL) /* the one table has the scalar kernel */
  edge_kernels_at(0)->f32_conv2d.run(&conv, &all);
#else
  edge_kernels_scalar.f32_conv2d.run(&conv, &all);
#endif
}

static void convolve_back(const edge_layer *layer, float *x, int before, float rate, float *plane) {
  const edge_conv2d *window = layer->window;
  const size_t size = plane_of(window), taps = (size_t)(window->kernel_h * window->kernel_w);
  const int32_t pixels = window->out_height * window->out_width;
  const int32_t depth = window->channels / window->groups, width = window->out_channels / window->groups;
  for (int32_t c = 0; c < window->channels; ++c, x += size) {
    if (plane != NULL) memset(plane, 0, size * sizeof *plane);
    const int32_t begin = c / depth * width;
    for (int32_t o = begin; o < begin + width; ++o) {
      float *weight = layer->weights + (size_t)(o * depth + c % depth) * taps;
      for (int32_t j = 0; j < (int32_t)taps; ++j, ++weight) {
        const float *gradient = layer->y + (size_t)o * (size_t)pixels;
        float sum = 0.0f;
        size_t at;
        for (int32_t i = 0; i < pixels; ++i, ++gradient) {
          if (!tap(window, i, j, &at)) continue;
          sum += *gradient * x[at];
          if (plane != NULL) plane[at] += *weight * *gradient;
        }
        *weight -= rate * sum;
      }
    }
    if (plane != NULL) pass_on(x, plane, size, before);
  }
  for (uint32_t o = 0; o < layer->rows; ++o) {
    float sum = 0.0f;
    for (int32_t i = 0; i < pixels; ++i) sum += layer->y[o * (size_t)pixels + (size_t)i];
    biases_of(layer)[o] -= rate * sum;
  }
}

/* --- dense -------------------------------------------------------------------------------------------------------- */

static void multiply(const edge_layer *layer, const float *x) {
  const size_t n = layer->rows, k = layer->depth;
  const edge_output_view out = {layer->y, NULL, n, 1};
  layer->call->kernels->f32_gemm(1, n, k, (edge_matrix){x, k, 1}, (edge_matrix){layer->weights, k, 1},
                                 biases_of(layer), layer->activation, &out);
}

static void multiply_back(const edge_layer *layer, float *x, int before, float rate, bool first) {
  const size_t rows = layer->rows, depth = layer->depth;
  const float *gradient = layer->y;
  for (size_t k = 0; k < depth; k += COLUMNS) {
    const size_t columns = depth - k < COLUMNS ? depth - k : COLUMNS;
    float sum[COLUMNS] = {0};
    for (size_t n = 0; n < rows; ++n) {
      float *weight = layer->weights + n * depth + k;
      const float g = gradient[n], step = rate * g;
      for (size_t i = 0; i < columns; ++i) {
        sum[i] += weight[i] * g;
        weight[i] -= step * x[k + i];
      }
    }
    if (!first) pass_on(x + k, sum, columns, before);
  }
  for (size_t n = 0; n < rows; ++n) biases_of(layer)[n] -= rate * gradient[n];
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

void edge_layer_forward(edge_layer *layer, float *x) {
  switch (layer->kind) {
    case EDGE_LAYER_DENSE: multiply(layer, x); break;
    case EDGE_LAYER_CONVOLUTION: convolve(layer, x); break;
    case EDGE_LAYER_NORM: normalize(layer, x); break;
    default: pool(layer, x, EDGE_ACT_NONE, NULL);
  }
}

void edge_layer_back(const edge_layer *layer, float *x, bool first, int before, float rate, float *plane) {
  switch (layer->kind) {
    case EDGE_LAYER_DENSE: multiply_back(layer, x, before, rate, first); break;
    case EDGE_LAYER_CONVOLUTION: convolve_back(layer, x, before, rate, first ? NULL : plane); break;
    case EDGE_LAYER_NORM:
      if (!first) normalize_back(layer, x, before);
      break;
    default: pool(layer, x, before, plane);
  }
}
