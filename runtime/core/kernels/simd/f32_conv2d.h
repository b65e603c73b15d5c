/* scalar/f32_conv2d.c over sixteen lanes, straight from the image: no copy of it with padding.
 *
 * A lane is an output channel. A tile is some pixels of one output row, which lie at equal steps in the image, and one
 * vector of channels; its sums stay in registers over all taps, in the order of the contract. A pixel whose window
 * leaves the image at its left or right is by itself and meets fewer taps; rows at top or bottom meet fewer rows of
 * taps.
 *
 * Weights lie as panels of sixteen outputs of one group, each tap's sixteen side by side. Those of a depthwise
 * convolution (each channel its own group and output) lie tap by tap, each of all channels; it takes sixteen channels
 * of the image as lanes, so the image is turned where they come first.
 */
#include "kernels/simd/planes.h"

/* Pixels of a depthwise tile. */
#define DEPTHWISE_ROWS (EDGE_TILE_ROWS * EDGE_TILE_VECTORS / 2)
/* Pixels of one block of sums: whole tiles. */
#define CONV_PIXELS (EDGE_ROW_BLOCK / EDGE_TILE_ROWS * EDGE_TILE_ROWS)

typedef struct conv_layout {
  bool depthwise;
  size_t group_channels, group_outputs;
  size_t taps;                  /* of an output: group_channels * kernel_h * kernel_w */
  size_t channel, row, column;  /* floats from one of the image's to the next */
  size_t panels;                /* of sixteen outputs: of a group, or of all channels if depthwise */
  size_t full_first, full_last; /* output columns whose windows are inside from left to right */
} conv_layout;

static conv_layout conv_layout_of(const edge_conv2d *shape, bool channels_last) {
  const size_t width = (size_t)shape->width;
  conv_layout layout = {
      .depthwise = shape->groups > 1 && shape->groups == shape->channels && shape->channels == shape->out_channels,
      .group_channels = (size_t)(shape->channels / shape->groups),
      .group_outputs = (size_t)(shape->out_channels / shape->groups),
      .channel = channels_last ? 1 : (size_t)shape->height * width,
      .column = channels_last ? (size_t)shape->channels : 1,
  };
  layout.taps = layout.group_channels * (size_t)shape->kernel_h * (size_t)shape->kernel_w;
  layout.row = width * layout.column;
  layout.panels = ((layout.depthwise ? (size_t)shape->out_channels : layout.group_outputs) + 15) / 16;
  const int32_t room = shape->width - 1 - (shape->kernel_w - 1) * shape->dilation_w + shape->padding_w;
  layout.full_first = (size_t)((shape->padding_w + shape->stride_w - 1) / shape->stride_w);
  layout.full_last = room < 0 ? 0 : (size_t)(room / shape->stride_w) + 1;
  if (layout.full_last < layout.full_first) layout.full_last = layout.full_first;
  return layout;
}

/* Floats from one tap's weights to the next's. */
EDGE_INLINE size_t conv_tap(const conv_layout *layout) { return layout->depthwise ? layout->panels * 16 : 16; }

static size_t EDGE_SIMD(conv2d_packed_bytes)(const edge_conv2d *shape) {
  const conv_layout layout = conv_layout_of(shape, false);
  const size_t groups = layout.depthwise ? 1 : (size_t)shape->groups;
  return groups * layout.panels * layout.taps * 16 * sizeof(float);
}

static void EDGE_SIMD(conv2d_pack)(const edge_conv2d *shape, const float *weight, void *packed) {
  const conv_layout layout = conv_layout_of(shape, false);
  const size_t groups = layout.depthwise ? 1 : (size_t)shape->groups;
  const size_t outputs = (size_t)shape->out_channels / groups;
  const size_t panel = layout.depthwise ? 16 : layout.taps * 16, tap = conv_tap(&layout);
  float *to = packed;
  for (size_t g = 0; g < groups; ++g, weight += outputs * layout.taps, to += layout.panels * layout.taps * 16) {
    for (size_t o = 0; o < layout.panels * 16; o += 16) {
      const size_t lanes = outputs - o < 16 ? outputs - o : 16;
      for (size_t t = 0; t < layout.taps; ++t) {
        for (size_t l = 0; l < 16; ++l) {
          to[o / 16 * panel + t * tap + l] = l < lanes ? weight[(o + l) * layout.taps + t] : 0.0f;
        }
      }
    }
  }
}

/* Which taps of a window that starts at `start` are inside: first .. last - 1. */
typedef struct conv_range {
  size_t first, last;
} conv_range;

EDGE_INLINE conv_range conv_inside(int32_t start, int32_t size, int32_t kernel, int32_t dilation) {
  const int32_t first = start < 0 ? (-start + dilation - 1) / dilation : 0;
  const int32_t room = size - 1 - start, last = room < 0 ? 0 : room / dilation + 1;
  const int32_t end = last < kernel ? last : kernel;
  return (conv_range){(size_t)first, (size_t)(end < first ? first : end)};
}

/* Pixels of one row that meet the same taps: many inside, or one at an edge. */
typedef struct conv_pixels {
  size_t first, count;
  conv_range down, across;
  size_t x; /* where the first tap of the first pixel is in a plane */
} conv_pixels;

static conv_pixels conv_pixels_at(const edge_conv2d *shape, const conv_layout *layout, size_t pixel, size_t last) {
  const size_t column = pixel % (size_t)shape->out_width;
  const int32_t top = (int32_t)(pixel / (size_t)shape->out_width) * shape->stride_h - shape->padding_h;
  const int32_t left = (int32_t)column * shape->stride_w - shape->padding_w;
  conv_pixels run = {
      .first = pixel,
      .count = 1,
      .down = conv_inside(top, shape->height, shape->kernel_h, shape->dilation_h),
      .across = conv_inside(left, shape->width, shape->kernel_w, shape->dilation_w),
  };
  if (column >= layout->full_first && column < layout->full_last) run.count = layout->full_last - column;
  if (run.count > last - pixel) run.count = last - pixel;
  if (run.down.first < run.down.last && run.across.first < run.across.last) {
    run.x = (size_t)(top + (int32_t)run.down.first * shape->dilation_h) * layout->row +
            (size_t)(left + (int32_t)run.across.first * shape->dilation_w) * layout->column;
  }
  return run;
}

/* A window: three loops over taps, the innermost the longest of those that are not 1; floats from one to the next in
 * the image (x) and the weights (w), and in the weights from one vector of outputs to the next. */
typedef struct conv_window {
  size_t outer, middle, inner;
  size_t x_outer, x_middle, x_inner;
  size_t w_outer, w_middle, w_inner, w_vector;
} conv_window;

/* Sums of `rows` pixels, `x_row` floats apart, and `vectors` times sixteen outputs; of the last vector of a depthwise
 * convolution the first `lanes` exist. */
EDGE_INLINE void conv_tile(const size_t rows, const size_t vectors, const bool depthwise, const conv_window *window,
                           size_t lanes, const float *x, size_t x_row, const float *w, float *sums) {
  vf sum[EDGE_TILE_ROWS][4];
  EDGE_UNROLL
  for (size_t r = 0; r < rows; ++r) {
    EDGE_UNROLL
    for (size_t v = 0; v < vectors; ++v) sum[r][v] = vf_set(0.0f);
  }
  for (size_t i = 0; i < window->outer; ++i, x += window->x_outer, w += window->w_outer) {
    const float *x_middle = x, *w_middle = w;
    for (size_t j = 0; j < window->middle; ++j, x_middle += window->x_middle, w_middle += window->w_middle) {
      const float *at = x_middle, *tap = w_middle;
      for (size_t k = 0; k < window->inner; ++k, at += window->x_inner, tap += window->w_inner) {
        vf weight[4];
        EDGE_UNROLL
        for (size_t v = 0; v < vectors; ++v) weight[v] = vf_load(tap + v * window->w_vector);
        EDGE_UNROLL
        for (size_t r = 0; r < rows; ++r) {
          vf value = vf_set(depthwise ? 0.0f : at[r * x_row]);
          EDGE_UNROLL
          for (size_t v = 0; v < vectors; ++v) {
            const float *sixteen = at + r * x_row + 16 * v;
            if (depthwise && v + 1 == vectors && lanes != 16) value = vf_load_first(sixteen, lanes);
            else if (depthwise) value = vf_load(sixteen);
            sum[r][v] = vf_add(sum[r][v], vf_mul(value, weight[v]));
          }
        }
      }
    }
  }
  EDGE_UNROLL
  for (size_t r = 0; r < rows; ++r) {
    EDGE_UNROLL
    for (size_t v = 0; v < vectors; ++v) vf_store(sums + r * EDGE_PANEL + 16 * v, sum[r][v]);
  }
}

/* The sums of `pixels` pixels and `count` <= EDGE_PANEL outputs. */
static void conv_dense_run(const conv_window *window, size_t pixels, size_t count, const float *x, size_t x_row,
                           const float *w, float *sums) {
  const size_t vectors = (count + 15) / 16;
  size_t r = 0;
  for (size_t v = 0; v < vectors; ++v) {
    const float *weight = w + v * window->w_vector;
    float *to = sums + 16 * v;
    for (r = 0; r + EDGE_TILE_ROWS <= pixels; r += EDGE_TILE_ROWS) {
      conv_tile(EDGE_TILE_ROWS, 1, false, window, 16, x + r * x_row, x_row, weight, to + r * EDGE_PANEL);
    }
    for (; r + 4 <= pixels; r += 4) {
      conv_tile(4, 1, false, window, 16, x + r * x_row, x_row, weight, to + r * EDGE_PANEL);
    }
  }
  for (; r < pixels; ++r) { /* four vectors, so that an addition need not wait for the one before */
    float *to = sums + r * EDGE_PANEL;
    if (vectors == 4) {
      conv_tile(1, 4, false, window, 16, x + r * x_row, 0, w, to);
      continue;
    }
    for (size_t v = 0; v < vectors; ++v) {
      conv_tile(1, 1, false, window, 16, x + r * x_row, 0, w + v * window->w_vector, to + 16 * v);
    }
  }
}

/* The same. Tiles of two vectors: addresses of pixels take registers too. */
static void conv_depthwise_run(const conv_window *window, size_t pixels, size_t count, const float *x, size_t x_row,
                               const float *w, float *sums) {
  for (size_t c = 0; c < count; c += 32, x += 32, w += 32, sums += 32) {
    const size_t some = count - c < 32 ? count - c : 32;
    size_t r = 0;
    for (; r + DEPTHWISE_ROWS <= pixels; r += DEPTHWISE_ROWS) {
      const float *from = x + r * x_row;
      float *to = sums + r * EDGE_PANEL;
      if (some == 32) {
        conv_tile(DEPTHWISE_ROWS, 2, true, window, 16, from, x_row, w, to);
        continue;
      }
      conv_tile(DEPTHWISE_ROWS, 1, true, window, some < 16 ? some : 16, from, x_row, w, to);
      if (some > 16) conv_tile(DEPTHWISE_ROWS, 1, true, window, some - 16, from + 16, x_row, w + 16, to + 16);
    }
    for (; r < pixels; ++r) {
      const float *from = x + r * x_row;
      float *to = sums + r * EDGE_PANEL;
      if (some == 32) {
        conv_tile(1, 2, true, window, 16, from, x_row, w, to);
        continue;
      }
      conv_tile(1, 1, true, window, some < 16 ? some : 16, from, x_row, w, to);
      if (some > 16) conv_tile(1, 1, true, window, some - 16, from + 16, x_row, w + 16, to + 16);
    }
  }
}

static conv_window conv_window_of(const edge_conv2d *shape, const conv_layout *layout, conv_range down,
                                  conv_range across) {
  const size_t tap = conv_tap(layout), kernel_w = (size_t)shape->kernel_w;
  conv_window window = {
      .outer = layout->group_channels,
      .middle = down.last - down.first,
      .inner = across.last - across.first,
      .x_outer = layout->channel,
      .x_middle = (size_t)shape->dilation_h * layout->row,
      .x_inner = (size_t)shape->dilation_w * layout->column,
      .w_outer = (size_t)shape->kernel_h * kernel_w * tap,
      .w_middle = kernel_w * tap,
      .w_inner = tap,
      .w_vector = layout->depthwise ? 16 : layout->taps * 16,
  };
  if (window.inner == 1) {
    window.inner = window.middle;
    window.x_inner = window.x_middle;
    window.w_inner = window.w_middle;
    window.middle = 1;
  }
  if (window.inner == 1) {
    window.inner = window.outer;
    window.x_inner = window.x_outer;
    window.w_inner = window.w_outer;
    window.outer = 1;
  }
  return window;
}

/* The sums of pixels first .. last - 1; `x` and `w` are those of the first of `count` outputs. */
static void conv_sums(const edge_conv2d *shape, const conv_layout *layout, const float *x, const float *w,
                      size_t first, size_t last, size_t count, float *sums) {
  const size_t x_row = (size_t)shape->stride_w * layout->column;
  for (size_t pixel = first; pixel < last;) {
    const conv_pixels run = conv_pixels_at(shape, layout, pixel, last);
    const conv_window window = conv_window_of(shape, layout, run.down, run.across);
    const float *from = x + run.x;
    const float *tap = w + (run.down.first * (size_t)shape->kernel_w + run.across.first) * conv_tap(layout);
    if (layout->depthwise) {
      conv_depthwise_run(&window, run.count, count, from, x_row, tap, sums);
    } else {
      conv_dense_run(&window, run.count, count, from, x_row, tap, sums);
    }
    sums += run.count * EDGE_PANEL;
    pixel += run.count;
  }
}

/* What is behind the sums. `activation` is a constant where it is a usual one. */
EDGE_INLINE void conv_finish_by(const edge_f32_conv2d *conv, const int activation, size_t pixel, size_t rows,
                                size_t first, size_t count, float *sums) {
  const edge_output_view out = conv->out;
  for (size_t j = 0; j < count; j += 16) {
    const size_t lanes = count - j < 16 ? count - j : 16;
    const vf bias = conv->bias != NULL ? vf_load_first(conv->bias + first + j, lanes) : vf_set(0.0f);
    size_t to = pixel * out.row_step + first + j;
    for (size_t r = 0; r < rows; ++r, to += out.row_step) {
      vf y = vf_load(sums + r * EDGE_PANEL + j);
      if (conv->bias != NULL) y = vf_add(y, bias);
      y = v_activate(y, activation);
      if (out.step != 1) {
        vf_store(sums + r * EDGE_PANEL + j, y);
        continue;
      }
      if (out.residual != NULL) y = vf_add(vf_load_first(out.residual + to, lanes), y);
      vf_store_first(out.data + to, y, lanes);
    }
  }
}

static void conv_finish(const edge_f32_conv2d *conv, size_t pixel, size_t rows, size_t first, size_t count,
                        float *sums) {
  switch (conv->activation) {
    case EDGE_ACT_NONE: conv_finish_by(conv, EDGE_ACT_NONE, pixel, rows, first, count, sums); break;
    case EDGE_ACT_RELU: conv_finish_by(conv, EDGE_ACT_RELU, pixel, rows, first, count, sums); break;
    default: conv_finish_by(conv, conv->activation, pixel, rows, first, count, sums);
  }
  if (conv->out.step == 1) return;
  edge_output_view out = conv->out;
  out.data += pixel;
  if (out.residual != NULL) out.residual += pixel;
  v_store_planes(&out, rows, first, count, sums);
}

/* `count` <= EDGE_PANEL outputs from `first` on, all of one group if not depthwise. */
static void conv_channels(const edge_f32_conv2d *conv, const conv_layout *layout, const edge_conv_part *part,
                          size_t first, size_t count) {
  const size_t group = first / layout->group_outputs, width = (size_t)conv->shape.out_width;
  const float *x = conv->x + group * layout->group_channels * layout->channel;
  const float *w = conv->weight;
  w += layout->depthwise ? first
                         : (group * layout->panels + first % layout->group_outputs / 16) * layout->taps * 16;
  for (size_t pixel = part->first_pixel; pixel < part->last_pixel;) {
    _Alignas(64) float sums[CONV_PIXELS * EDGE_PANEL];
    size_t end = part->last_pixel - pixel < CONV_PIXELS ? part->last_pixel : pixel + CONV_PIXELS;
    if (end < part->last_pixel && end / width * width > pixel) end = end / width * width; /* whole rows */
    conv_sums(&conv->shape, layout, x, w, pixel, end, count, sums);
    conv_finish(conv, pixel, end - pixel, first, count, sums);
    pixel = end;
  }
}

/* The scratch is for depthwise convolutions alone: others take their channels one by one wherever they are. */
static size_t EDGE_SIMD(conv2d_image_bytes)(const edge_conv2d *shape) {
  if (!conv_layout_of(shape, true).depthwise) return 0;
  return (size_t)shape->channels * (size_t)shape->height * (size_t)shape->width * sizeof(float);
}

static void EDGE_SIMD(conv2d_turn)(const edge_conv2d *shape, const float *x, float *image) {
  const size_t channels = (size_t)shape->channels, plane = (size_t)shape->height * (size_t)shape->width;
  for (size_t p = 0; p < plane; p += 16) {
    const size_t pixels = plane - p < 16 ? plane - p : 16;
    for (size_t c = 0; c < channels; c += 16) {
      const size_t count = channels - c < 16 ? channels - c : 16;
      vf t[16];
      for (size_t i = 0; i < 16; ++i) t[i] = i < count ? vf_load_first(x + (c + i) * plane + p, pixels) : vf_set(0.0f);
      vf_turn(t);
      for (size_t i = 0; i < pixels; ++i) vf_store_first(image + (p + i) * channels + c, t[i], count);
    }
  }
}

static void EDGE_SIMD(conv2d)(const edge_f32_conv2d *given, const edge_conv_part *part) {
  edge_f32_conv2d conv = *given;
  edge_conv2d *shape = &conv.shape;
  const int64_t plane = (int64_t)shape->height * shape->width;
  if (shape->kernel_h == 1 && shape->kernel_w == 1 && shape->stride_h == 1 && shape->stride_w == 1 &&
      shape->padding_h == 0 && shape->padding_w == 0 && plane <= INT32_MAX) { /* all pixels as one row */
    shape->height = shape->out_height = 1;
    shape->width = shape->out_width = (int32_t)plane;
  }
  const conv_layout layout = conv_layout_of(shape, conv.channels_last);
  for (size_t o = part->first_channel; o < part->last_channel;) {
    size_t end = part->last_channel; /* of the group */
    if (!layout.depthwise) end = (o / layout.group_outputs + 1) * layout.group_outputs;
    if (end > part->last_channel) end = part->last_channel;
    if (end > o + EDGE_PANEL) end = o + EDGE_PANEL;
    conv_channels(&conv, &layout, part, o, end - o);
    o = end;
  }
}

#define EDGE_F32_CONV2D(isa)                                                                            \
  {                                                                                                     \
    conv2d_packed_bytes__##isa, conv2d_pack__##isa, conv2d_image_bytes__##isa, conv2d_turn__##isa,      \
        conv2d__##isa                                                                                   \
  }
