/* int8 convolutions over an image of codes with channels last; the contract is that of
 * scalar/qd8_f32_qc8w_conv2d.c.
 *
 * The image has the convolution's padding around it, so an output pixel's codes are at fixed offsets from its first:
 * runs of them, one a kernel row, or one a kernel column too where it is dilated. A dense convolution (groups = 1) is a
 * matrix product whose rows are pixels and whose depth is these runs, each rounded up to a whole number of quads, where
 * the weights are 0; where one run of all codes has clearly fewer quads, they are copied into one. A depthwise
 * convolution takes sixteen channels as lanes: simd/qd8_depthwise.h. Others are the scalar kernel's.
 */

#include "kernels/simd/qd8_depthwise.h"

/* Pixels of one block of sums. */
#define CONV_PIXELS EDGE_ROW_BLOCK
/* Codes behind the image's last that may be read, and meet weights of 0. */
#define CONV_SLACK 64
/* Of a pixel's codes at most. */
#define GATHERED_QUADS 32

typedef struct conv_layout {
  bool depthwise;
  size_t pixel, pitch; /* codes from one pixel, one row of the padded image to the next */
  size_t rows;         /* of it */
  char zero;           /* the code of padding */
  /* Of a dense convolution: */
  dense_runs source; /* a pixel's codes in the image */
  size_t length;     /* of one of these runs, whose last quad may have more */
  dense_runs runs;   /* what the weights meet: they, or where `gathered` a copy that is one run */
  bool gathered;
  size_t panels;       /* of 64 outputs */
} conv_layout;

static conv_layout layout_of(const edge_conv2d *shape) {
  const bool dilated = shape->dilation_w != 1 && shape->kernel_w > 1;
  const bool depthwise = shape->groups != 1;
  const size_t channels = (size_t)shape->channels, pixel = depthwise ? depthwise_channels(channels) : channels;
  conv_layout layout = {
      .depthwise = depthwise,
      .pixel = pixel,
      .pitch = ((size_t)shape->width + 2 * (size_t)shape->padding_w) * pixel,
      .rows = (size_t)shape->height + 2 * (size_t)shape->padding_h,
      .zero = (char)(depthwise ? DENSE_OFFSET : 0),
      .length = dilated ? channels : (size_t)shape->kernel_w * channels,
      .source =
          {
              .down = (size_t)shape->kernel_h,
              .across = dilated ? (size_t)shape->kernel_w : 1,
              .across_step = (size_t)shape->dilation_w * channels,
          },
      .panels = dense_panels((size_t)shape->out_channels),
  };
  layout.source.down_step = (size_t)shape->dilation_h * layout.pitch;
  layout.source.quads = (layout.length + 3) / 4;
  /* A copy must save more products than it takes time. */
  const size_t runs = layout.source.down * layout.source.across;
  const dense_runs one = one_run(runs * layout.length);
  layout.gathered = one.quads <= GATHERED_QUADS && 8 * one.quads <= 7 * runs * layout.source.quads;
  layout.runs = layout.gathered ? one : layout.source;
  return layout;
}

/* Whether these kernels have it. */
static bool serves(const edge_conv2d *shape) {
  /* With more padding than that, the padded image would be mostly that. */
  if (shape->padding_h > 64 || shape->padding_w > 64) return false;
  return shape->groups == 1 || (shape->groups == shape->channels && shape->out_channels == shape->channels);
}

size_t EDGE_SIMD(edge_qd8_conv2d_packed_bytes)(const edge_conv2d *shape) {
  if (!serves(shape)) return 0;
  const conv_layout layout = layout_of(shape);
  return layout.depthwise ? depthwise_bytes(shape) : dense_bytes(&layout.runs, (size_t)shape->out_channels);
}

size_t EDGE_SIMD(edge_qd8_conv2d_image_bytes)(const edge_conv2d *shape) {
  const conv_layout layout = layout_of(shape);
  return layout.rows * layout.pitch + CONV_SLACK;
}

void EDGE_SIMD(edge_qd8_conv2d_pack)(const edge_conv2d *shape, const void *file, void *packed) {
  const int8_t *weight = file;
  const conv_layout layout = layout_of(shape);
  const size_t channels = (size_t)shape->channels;
  memset(packed, 0, EDGE_SIMD(edge_qd8_conv2d_packed_bytes)(shape));
  if (layout.depthwise) {
    depthwise_pack(shape, weight, packed);
    return;
  }
  for (size_t o = 0; o < (size_t)shape->out_channels; ++o) {
    for (size_t c = 0; c < channels; ++c) {
      for (size_t kh = 0; kh < (size_t)shape->kernel_h; ++kh) {
        for (size_t kw = 0; kw < (size_t)shape->kernel_w; ++kw) {
          const size_t i = (kh * (size_t)shape->kernel_w + kw) * channels + c; /* of all runs in one */
          const size_t run = layout.gathered ? 0 : i / layout.length;
          dense_put(&layout.runs, packed, layout.panels, o, run, i - run * layout.length, *weight++);
        }
      }
    }
  }
}

/* The scale is 127 / the largest |x|: no code needs clipping. */

EDGE_INLINE void store_codes(int8_t *to, vf x, vf scale, size_t count) {
  const vi code = v_code_within(x, scale);
  if (count == 16) {
    vi_store_codes(to, code);
    return;
  }
  int8_t codes[16];
  vi_store_codes(codes, code);
  memcpy(to, codes, count);
}

/* A row of floats whose channels are last, as the image has them in a dense convolution. */
static void quantize_row(const float *x, size_t count, vf scale, int8_t *to) {
  for (size_t i = 0; i < count; i += 16) {
    const size_t some = count - i < 16 ? count - i : 16;
    store_codes(to + i, vf_load_first(x + i, some), scale, some);
  }
}

/* A block of channels of a pixel, for a depthwise convolution. */
EDGE_INLINE void store_block(int8_t *to, const vf x[EDGE_BLOCK], vf scale) {
  vf scaled[EDGE_BLOCK];
  EDGE_UNROLL
  for (size_t g = 0; g < EDGE_BLOCK; ++g) scaled[g] = vf_mul(x[g], scale);
  vf_store_block(to, scaled, DENSE_OFFSET);
}

static void quantize_blocks(const float *x, size_t width, size_t channels, vf scale, int8_t *to) {
  for (size_t p = 0; p < width; ++p, x += channels) {
    size_t c = 0;
    for (; c + 16 * EDGE_BLOCK <= channels; c += 16 * EDGE_BLOCK, to += 16 * EDGE_BLOCK) {
      vf block[EDGE_BLOCK];
      EDGE_UNROLL
      for (size_t g = 0; g < EDGE_BLOCK; ++g) block[g] = vf_load(x + c + 16 * g);
      store_block(to, block, scale);
    }
    if (c == channels) continue;
    vf block[EDGE_BLOCK];
    for (size_t g = 0; g < EDGE_BLOCK; ++g, c += 16) {
      block[g] = c < channels ? vf_load_first(x + c, channels - c < 16 ? channels - c : 16) : vf_set(0.0f);
    }
    store_block(to, block, scale);
    to += 16 * EDGE_BLOCK;
  }
}

/* The lanes are channels: t[i] has those of pixel i, of `count` channels whose planes lie apart. */
EDGE_INLINE void turn_pixels(const float *x, size_t plane, size_t count, size_t pixels, vf t[16]) {
  for (size_t c = 0; c < 16; ++c) t[c] = c < count ? vf_load_first(x + c * plane, pixels) : vf_set(0.0f);
  vf_turn(t);
}

/* A row of floats whose channels are planes. */
static void quantize_planes(const conv_layout *layout, const float *x, size_t width, size_t channels, size_t plane,
                            vf scale, int8_t *to) {
  for (size_t p = 0; p < width; p += 16) {
    const size_t pixels = width - p < 16 ? width - p : 16;
    if (!layout->depthwise && channels < 8) { /* turning would take longer */
      for (size_t c = 0; c < channels; ++c) {
        int8_t codes[16];
        store_codes(codes, vf_load_first(x + c * plane + p, pixels), scale, 16);
        for (size_t i = 0; i < pixels; ++i) to[(p + i) * channels + c] = codes[i];
      }
      continue;
    }
    for (size_t c = 0; c < channels; c += 16 * EDGE_BLOCK) {
      vf t[EDGE_BLOCK][16];
      for (size_t g = 0; g < EDGE_BLOCK; ++g) {
        const size_t channel = c + 16 * g;
        if (!layout->depthwise && channel >= channels) break;
        turn_pixels(x + channel * plane + p, plane, channel < channels ? channels - channel : 0, pixels, t[g]);
        if (layout->depthwise) continue;
        const size_t some = channels - channel < 16 ? channels - channel : 16;
        for (size_t i = 0; i < pixels; ++i) store_codes(to + (p + i) * channels + channel, t[g][i], scale, some);
      }
      for (size_t i = 0; i < pixels && layout->depthwise; ++i) {
        vf block[EDGE_BLOCK];
        for (size_t g = 0; g < EDGE_BLOCK; ++g) block[g] = t[g][i];
        store_block(to + (p + i) * layout->pixel + c, block, scale);
      }
    }
  }
}

/* The largest of |x| and 1e-5, without what is NaN. */
static float largest_of(const float *x, size_t count) {
  vf largest[4];
  for (size_t l = 0; l < 4; ++l) largest[l] = vf_set(1e-5f);
  size_t i = 0;
  for (; i + 64 <= count; i += 64) {
    EDGE_UNROLL
    for (size_t l = 0; l < 4; ++l) largest[l] = vf_larger(vf_abs(vf_load(x + i + 16 * l)), largest[l]);
  }
  for (; i < count; i += 16) {
    largest[0] = vf_larger(vf_abs(vf_load_first(x + i, count - i < 16 ? count - i : 16)), largest[0]);
  }
  return vf_largest(vf_larger(vf_larger(largest[0], largest[1]), vf_larger(largest[2], largest[3])));
}

void EDGE_SIMD(edge_qd8_conv2d_quantize)(const edge_conv2d *shape, const float *x, bool channels_last, void *image,
                                         edge_row *row_of_all) {
  const conv_layout layout = layout_of(shape);
  const size_t channels = (size_t)shape->channels, width = (size_t)shape->width, plane = (size_t)shape->height * width;
  *row_of_all = (edge_row){.scale = (1.0f / largest_of(x, channels * plane)) * 127.0f};
  row_of_all->step = 1.0f / row_of_all->scale;
  const vf scale = vf_set(row_of_all->scale);
  const size_t above = (size_t)shape->padding_h * layout.pitch, before = (size_t)shape->padding_w * layout.pixel;
  int8_t *to = image;
  memset(to, layout.zero, above);
  to += above;
  for (size_t y = 0; y < (size_t)shape->height; ++y, to += layout.pitch) {
    int8_t *first = to + before;
    memset(to, layout.zero, before);
    if (!channels_last && channels > 1) {
      quantize_planes(&layout, x + y * width, width, channels, plane, scale, first);
    } else if (layout.depthwise) {
      quantize_blocks(x + y * width * channels, width, channels, scale, first);
    } else {
      quantize_row(x + y * width * channels, width * channels, scale, first);
    }
    memset(first + width * layout.pixel, layout.zero, before);
  }
  memset(to, layout.zero, above + CONV_SLACK);
}

/* From sums to outputs: what is left to do is that of a matrix product whose rows are pixels. */
static void finish_pixels(const edge_qd8_conv2d *conv, size_t first, size_t count, size_t channel, size_t channels,
                          int32_t *sums) {
  edge_row row[CONV_PIXELS];
  for (size_t i = 0; i < count; ++i) row[i] = conv->row;
  edge_qd8_gemm rest = {.rows = count, .row = row, .epilogue = conv->epilogue, .out = conv->out};
  rest.out.data += first * rest.out.row_step;
  if (rest.out.residual != NULL) rest.out.residual += first * rest.out.row_step;
  v_finish(&rest, sums, 0, channel, channels);
}

/* Whether the sums of depthwise_slide are finished where they are made. */
static bool finishes_sums(const edge_qd8_conv2d *conv) {
  const edge_conv2d *shape = &conv->shape;
  const edge_epilogue *epilogue = &conv->epilogue;
  return shape->kernel_w == 3 && shape->kernel_h <= 4 && shape->stride_w == shape->dilation_w &&
         shape->channels % (16 * DEPTHWISE_VECTORS) == 0 && epilogue->bias != NULL &&
         epilogue->activation == EDGE_ACT_RELU && !epilogue->bitlinear_compat && conv->out.step == 1 &&
         conv->out.residual == NULL;
}

/* What turns sums into outputs before the bias, of `count` channels, a multiple of 16. */
static void factors(const edge_qd8_conv2d *conv, size_t first, size_t count, float *factor) {
  const edge_epilogue *epilogue = &conv->epilogue;
  for (size_t c = 0; c < count; c += 16) {
    const vf scale = epilogue->scale_step ? vf_load(epilogue->scales + first + c) : vf_set(epilogue->scales[0]);
    vf_store(factor + c, vf_mul(scale, vf_set(conv->row.step)));
  }
}

static void depthwise_rows(const edge_qd8_conv2d *conv, const conv_layout *layout, size_t first, size_t last) {
  const edge_conv2d *shape = &conv->shape;
  const size_t width = (size_t)shape->out_width, channels = (size_t)shape->channels;
  const int32_t *starts = conv->weight;
  const bool finished = finishes_sums(conv);
  depthwise_job job = {
      .pixel = (size_t)shape->stride_w * layout->pixel,
      .column = (size_t)shape->dilation_w * layout->pixel,
      .kernel_row = (size_t)shape->dilation_h * layout->pitch,
      .high = (size_t)shape->kernel_h,
      .wide = (size_t)shape->kernel_w,
      .start = starts,
      .weight = starts + depthwise_channels(channels),
      .weight_step = depthwise_step(shape),
      .bias = conv->epilogue.bias,
      .out_step = conv->out.row_step,
  };
  const size_t down = (size_t)shape->stride_h * layout->pitch;
  const size_t most = width < CONV_PIXELS ? CONV_PIXELS / width : 1; /* rows of a block */
  for (size_t y = first; y < last; y += most) {
    const size_t rows = last - y < most ? last - y : most;
    for (size_t x = 0; x < width; x += CONV_PIXELS) {
      const size_t count = width - x < CONV_PIXELS ? width - x : CONV_PIXELS;
      const int8_t *code = (const int8_t *)conv->image + y * down + x * job.pixel;
      for (size_t c = 0; c < channels; c += EDGE_PANEL) {
        _Alignas(64) int32_t sums[CONV_PIXELS * EDGE_PANEL];
        const size_t some = channels - c < EDGE_PANEL ? channels - c : EDGE_PANEL;
        float factor[EDGE_PANEL];
        if (finished) {
          factors(conv, c, some, factor);
          job.factor = factor;
        }
        for (size_t r = 0; r < rows; ++r) {
          if (finished) job.out = conv->out.data + ((y + r) * width + x) * conv->out.row_step;
          depthwise_sums(&job, code + r * down, count, c, some, sums + r * count * EDGE_PANEL);
        }
        if (!finished) finish_pixels(conv, y * width + x, rows * count, c, some, sums);
      }
    }
  }
}

/* Copies each pixel's runs side by side, sixteen codes at a time: what is copied beyond a run, the next one overwrites.
 * The pixels are then those of the copies. */
static void gather(const conv_layout *layout, const int8_t **pixel, size_t count, int8_t *copies) {
  const dense_runs *source = &layout->source;
  const size_t step = layout->runs.quads * 4 + 16;
  int8_t *to = copies;
  for (size_t d = 0; d < source->down; ++d) {
    for (size_t a = 0; a < source->across; ++a, to += layout->length) {
      const size_t at = d * source->down_step + a * source->across_step;
      for (size_t i = 0; i < layout->length; i += 16) {
        for (size_t r = 0; r < count; ++r) memcpy(to + r * step + i, pixel[r] + at + i, 16);
      }
    }
  }
  for (size_t r = 0; r < count; ++r) pixel[r] = copies + r * step;
}

static void dense_rows(const edge_qd8_conv2d *conv, const conv_layout *layout, size_t first, size_t last) {
  const edge_conv2d *shape = &conv->shape;
  const size_t width = (size_t)shape->out_width, end = last * width, channels = (size_t)shape->out_channels;
  const size_t down = (size_t)shape->stride_h * layout->pitch, across = (size_t)shape->stride_w * layout->pixel;
  const int8_t *line = (const int8_t *)conv->image + first * down;
  size_t x = 0;
  int8_t copies[CONV_PIXELS * (GATHERED_QUADS * 4 + 16)];
  if (layout->gathered) memset(copies, 0, sizeof copies);
  for (size_t begin = first * width; begin < end; begin += CONV_PIXELS) {
    const size_t count = end - begin < CONV_PIXELS ? end - begin : CONV_PIXELS;
    const int8_t *pixel[CONV_PIXELS];
    for (size_t r = 0; r < count; ++r) {
      pixel[r] = line + x * across;
      if (++x < width) continue;
      x = 0;
      line += down;
    }
    if (layout->gathered) gather(layout, pixel, count, copies);
    for (size_t p = 0; p < layout->panels; ++p) {
      _Alignas(64) int32_t sums[CONV_PIXELS * EDGE_PANEL];
      const size_t o = p * EDGE_PANEL, some = channels - o < EDGE_PANEL ? channels - o : EDGE_PANEL;
      dense_sums(&layout->runs, conv->weight, layout->panels, p, pixel, count, some, sums);
      finish_pixels(conv, begin, count, o, some, sums);
    }
  }
}

void EDGE_SIMD(edge_qd8_conv2d)(const edge_qd8_conv2d *conv, size_t first, size_t last) {
  const conv_layout layout = layout_of(&conv->shape);
  if (layout.depthwise) {
    depthwise_rows(conv, &layout, first, last);
  } else {
    dense_rows(conv, &layout, first, last);
  }
}
