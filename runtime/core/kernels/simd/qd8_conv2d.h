/* int8 convolutions over an image of codes with channels last; the contract is that of
 * scalar/qd8_f32_qc8w_conv2d.c.
 *
 * The image has the convolution's padding around it, so an output pixel's codes are at fixed offsets from its first:
 * runs of them, one a kernel row, or one a kernel column too where it is dilated. A dense convolution (groups = 1) is a
 * matrix product whose rows are pixels and whose depth is these runs, each rounded up to a whole number of quads, where
 * the weights are 0. A depthwise one takes sixteen channels as lanes. Others are the scalar kernel's.
 *
 */

/* Pixels of one block of sums. */
#define CONV_PIXELS EDGE_ROW_BLOCK
/* Codes behind the image's last that may be read, and meet weights of 0. */
#define CONV_SLACK 64

typedef struct conv_layout {
  bool depthwise;
  size_t rows, pitch; /* of the padded image; codes from one row to the next */
  dense_runs runs;    /* of codes that a pixel meets */
  size_t panels;      /* of 64 outputs */
} conv_layout;

static conv_layout layout_of(const edge_conv2d *shape) {
  const bool dilated = shape->dilation_w != 1 && shape->kernel_w > 1;
  const size_t channels = (size_t)shape->channels;
  conv_layout layout = {
      .depthwise = shape->groups != 1,
      .rows = (size_t)shape->height + 2 * (size_t)shape->padding_h,
      .pitch = ((size_t)shape->width + 2 * (size_t)shape->padding_w) * channels,
      .runs =
          {
              .down = (size_t)shape->kernel_h,
              .across = dilated ? (size_t)shape->kernel_w : 1,
              .across_step = (size_t)shape->dilation_w * channels,
              .quads = ((dilated ? channels : (size_t)shape->kernel_w * channels) + 3) / 4,
          },
      .panels = dense_panels((size_t)shape->out_channels),
  };
  layout.runs.down_step = (size_t)shape->dilation_h * layout.pitch;
  return layout;
}

/* Whether these kernels have it. */
static bool serves(const edge_conv2d *shape) {
  /* With more padding than that, the padded image would be mostly that. */
  if (shape->padding_h > 64 || shape->padding_w > 64) return false;
  return shape->groups == 1 || (shape->groups == shape->channels && shape->out_channels == shape->channels);
}

/* Depthwise: the taps, each of all channels. */
size_t EDGE_SIMD(edge_qd8_conv2d_packed_bytes)(const edge_conv2d *shape) {
  if (!serves(shape)) return 0;
  const conv_layout layout = layout_of(shape);
  if (!layout.depthwise) return dense_bytes(&layout.runs, (size_t)shape->out_channels);
  return (size_t)shape->kernel_h * (size_t)shape->kernel_w * (layout.panels * EDGE_PANEL);
}

size_t EDGE_SIMD(edge_qd8_conv2d_image_bytes)(const edge_conv2d *shape) {
  const conv_layout layout = layout_of(shape);
  return layout.rows * layout.pitch + CONV_SLACK;
}

void EDGE_SIMD(edge_qd8_conv2d_pack)(const edge_conv2d *shape, const int8_t *weight, void *packed) {
  const conv_layout layout = layout_of(shape);
  const size_t channels = (size_t)shape->channels, taps = (size_t)shape->kernel_h * (size_t)shape->kernel_w;
  memset(packed, 0, EDGE_SIMD(edge_qd8_conv2d_packed_bytes)(shape));
  if (layout.depthwise) {
    int8_t *to = packed;
    for (size_t c = 0; c < channels; ++c) {
      for (size_t t = 0; t < taps; ++t) to[t * layout.panels * EDGE_PANEL + c] = *weight++;
    }
    return;
  }
  for (size_t o = 0; o < (size_t)shape->out_channels; ++o) {
    for (size_t c = 0; c < channels; ++c) {
      for (size_t kh = 0; kh < layout.runs.down; ++kh) {
        for (size_t kw = 0; kw < (size_t)shape->kernel_w; ++kw) {
          const bool whole = layout.runs.across == 1;
          dense_put(&layout.runs, packed, layout.panels, o, whole ? kh : kh * layout.runs.across + kw,
                    whole ? kw * channels + c : c, *weight++);
        }
      }
    }
  }
}

/* Sixteen pixels of `count` <= 16 channels, as codes in floats: t[pixel] has the channels as lanes. */
EDGE_INLINE void conv_codes(const float *x, size_t plane, size_t count, size_t pixels, vf scale, vf t[16]) {
  for (size_t c = 0; c < 16; ++c) {
    if (c >= count) {
      t[c] = vf_set(0.0f);
      continue;
    }
    t[c] = vi_to_float(v_code(vf_load_first(x + c * plane, pixels), scale, vf_set(-127.0f)));
  }
  vf_turn(t);
}

/* One row of the image, channels last. */
EDGE_INLINE void quantize_pixels(const float *x, size_t count, vf scale, int8_t *to) {
  for (size_t i = 0; i < count; i += 16) {
    const size_t some = count - i < 16 ? count - i : 16;
    const vi code = v_code(vf_load_first(x + i, some), scale, vf_set(-127.0f));
    if (some == 16) {
      vi_store_codes(to + i, code);
    } else {
      int8_t codes[16];
      vi_store_codes(codes, code);
      memcpy(to + i, codes, some);
    }
  }
}

void EDGE_SIMD(edge_qd8_conv2d_quantize)(const edge_conv2d *shape, const float *x, bool channels_last, void *image,
                                         edge_row *row_of_all) {
  const conv_layout layout = layout_of(shape);
  const size_t channels = (size_t)shape->channels, width = (size_t)shape->width;
  const size_t plane = (size_t)shape->height * width, count = channels * plane;
  vf largest = vf_set(1e-5f);
  for (size_t i = 0; i < count; i += 16) {
    largest = vf_larger(vf_abs(vf_load_first(x + i, count - i < 16 ? count - i : 16)), largest);
  }
  *row_of_all = (edge_row){.scale = (1.0f / vf_largest(largest)) * 127.0f};
  row_of_all->step = 1.0f / row_of_all->scale;
  const vf scale = vf_set(row_of_all->scale);
  memset(image, 0, EDGE_SIMD(edge_qd8_conv2d_image_bytes)(shape));
  for (size_t y = 0; y < (size_t)shape->height; ++y) {
    const size_t row = (y + (size_t)shape->padding_h) * layout.pitch + (size_t)shape->padding_w * channels;
    if (channels_last || channels == 1) {
      quantize_pixels(x + y * width * channels, width * channels, scale, (int8_t *)image + row);
      continue;
    }
    for (size_t p = 0; p < width; p += 16) {
      const size_t pixels = width - p < 16 ? width - p : 16;
      for (size_t c = 0; c < channels; c += 16) {
        const size_t some = channels - c < 16 ? channels - c : 16;
        vf t[16];
        conv_codes(x + c * plane + y * width + p, plane, some, pixels, scale, t);
        for (size_t i = 0; i < pixels; ++i) {
          int8_t codes[16];
          vi_store_codes(codes, vf_to_int(t[i]));
          memcpy((int8_t *)image + row + (p + i) * channels + c, codes, some);
        }
      }
    }
  }
}

/* Sums of `rows` pixels and sixteen channels. */
EDGE_INLINE void depthwise_tile(const size_t rows, const edge_conv2d *shape, const conv_layout *layout,
                                const int8_t *weight, const int8_t *const *pixel, size_t channel, int32_t *sums) {
  vi sum[8];
  EDGE_UNROLL
  for (size_t r = 0; r < rows; ++r) sum[r] = vi_set(0);
  for (size_t kh = 0; kh < (size_t)shape->kernel_h; ++kh) {
    for (size_t kw = 0; kw < (size_t)shape->kernel_w; ++kw, weight += layout->panels * EDGE_PANEL) {
      const size_t at = kh * layout->runs.down_step + kw * layout->runs.across_step + channel;
      const vi w = vi_load_codes(weight + channel);
      EDGE_UNROLL
      for (size_t r = 0; r < rows; ++r) sum[r] = vi_add(sum[r], vi_mul(w, vi_load_codes(pixel[r] + at)));
    }
  }
  EDGE_UNROLL
  for (size_t r = 0; r < rows; ++r) vi_store(sums + r * EDGE_PANEL, sum[r]);
}

static void depthwise_sums(const edge_conv2d *shape, const conv_layout *layout, const int8_t *weight,
                           const int8_t *const *pixel, size_t rows, size_t first, size_t count, int32_t *sums) {
  for (size_t c = 0; c < count; c += 16) {
    size_t r = 0;
    for (; r + 8 <= rows; r += 8) {
      depthwise_tile(8, shape, layout, weight, pixel + r, first + c, sums + r * EDGE_PANEL + c);
    }
    for (; r < rows; ++r) {
      depthwise_tile(1, shape, layout, weight, pixel + r, first + c, sums + r * EDGE_PANEL + c);
    }
  }
}

void EDGE_SIMD(edge_qd8_conv2d)(const edge_qd8_conv2d *conv, size_t first, size_t last) {
  const edge_conv2d *shape = &conv->shape;
  const conv_layout layout = layout_of(shape);
  const size_t width = (size_t)shape->out_width, end = last * width, channels = (size_t)shape->out_channels;
  edge_row row[CONV_PIXELS];
  for (size_t i = 0; i < CONV_PIXELS; ++i) row[i] = conv->row;
  for (size_t begin = first * width; begin < end; begin += CONV_PIXELS) {
    const size_t rows = end - begin < CONV_PIXELS ? end - begin : CONV_PIXELS;
    const int8_t *pixel[CONV_PIXELS];
    for (size_t r = 0; r < rows; ++r) {
      const size_t y = (begin + r) / width * (size_t)shape->stride_h, x = (begin + r) % width * (size_t)shape->stride_w;
      pixel[r] = (const int8_t *)conv->image + y * layout.pitch + x * (size_t)shape->channels;
    }
    /* What is left to do is that of a matrix product. */
    edge_qd8_gemm rest = {.rows = rows, .row = row, .epilogue = conv->epilogue, .out = conv->out};
    rest.out.data += begin * rest.out.row_step;
    if (rest.out.residual != NULL) rest.out.residual += begin * rest.out.row_step;
    for (size_t p = 0; p < layout.panels; ++p) {
      _Alignas(64) int32_t sums[CONV_PIXELS * EDGE_PANEL];
      const size_t o = p * EDGE_PANEL, count = channels - o < EDGE_PANEL ? channels - o : EDGE_PANEL;
      if (layout.depthwise) {
        depthwise_sums(shape, &layout, conv->weight, pixel, rows, o, count, sums);
      } else {
        dense_sums(&layout.runs, conv->weight, layout.panels, p, pixel, rows, count, sums);
      }
      v_finish(&rest, sums, 0, o, count);
    }
  }
}
