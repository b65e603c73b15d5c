/* 3x3 int8 convolutions by Winograd's F(2x2, 3x3): sixteen products in place of thirty-six for four output pixels, as
 * AVX2 has no instruction for int8 ones that is faster than that for int16. See A. Lavin, S. Gray, "Fast Algorithms for
 * Convolutional Neural Networks", CVPR 2016; here the weights' transform is taken twice, so that all of it is whole
 * numbers and every sum exactly four times the one of scalar/qd8_f32_qc8w_conv2d.c.
 *
 *   output = A' [ (2G g 2G') . (B' d B) ] A / 4       d: 4 x 4 codes, g: 3 x 3 weights, . summed over the channels
 *
 * |B' d B| <= 508 and |2G g 2G'| <= 1152, so both fit 16 bits and a product's sum over the channels 32.
 *
 * The image is the padded one of simd/qd8_conv2d.h, and behind it the transformed tiles: for each tile sixteen places
 * of `depth` channels. Weights: for every sixteen outputs sixteen places, in each pair by pair of channels the
 * sixteen outputs.
 */

enum {
  PLACES = 16,
  TILE_OUTPUTS = 16, /* at a time; half a dozen tiles of them fill the registers */
  TILES = 6,
  BLOCK_TILES = 24, /* whose pixels are finished together */
  MIN_CHANNELS = 16,
  MAX_CHANNELS = 2048, /* so that four times a sum fits */
};

typedef struct winograd {
  size_t down, across; /* tiles of the output */
  size_t depth;        /* channels, a multiple of 16 */
} winograd;

static bool is_winograd(const edge_conv2d *shape) {
  return shape->groups == 1 && shape->kernel_h == 3 && shape->kernel_w == 3 && shape->stride_h == 1 &&
         shape->stride_w == 1 && shape->dilation_h == 1 && shape->dilation_w == 1 && serves(shape) &&
         shape->channels >= MIN_CHANNELS && shape->channels <= MAX_CHANNELS && shape->out_channels >= TILE_OUTPUTS &&
         shape->out_height > 1 && shape->out_width > 1;
}

static winograd winograd_of(const edge_conv2d *shape) {
  return (winograd){((size_t)shape->out_height + 1) / 2, ((size_t)shape->out_width + 1) / 2,
                    ((size_t)shape->channels + 15) / 16 * 16};
}

static size_t codes_bytes(const edge_conv2d *shape) {
  return (edge_qd8_conv2d_image_bytes__avx2(shape) + 63) / 64 * 64;
}

size_t edge_winograd_packed_bytes__avx2(const edge_conv2d *shape) {
  if (!is_winograd(shape)) return edge_qd8_conv2d_packed_bytes__avx2(shape);
  const size_t blocks = ((size_t)shape->out_channels + TILE_OUTPUTS - 1) / TILE_OUTPUTS;
  return blocks * PLACES * winograd_of(shape).depth * TILE_OUTPUTS * sizeof(int16_t);
}

size_t edge_winograd_image_bytes__avx2(const edge_conv2d *shape) {
  if (!is_winograd(shape)) return edge_qd8_conv2d_image_bytes__avx2(shape);
  const winograd own = winograd_of(shape);
  return codes_bytes(shape) + own.down * own.across * PLACES * own.depth * sizeof(int16_t);
}

void edge_winograd_pack__avx2(const edge_conv2d *shape, const void *file, void *packed) {
  const int8_t *weight = file;
  if (!is_winograd(shape)) {
    edge_qd8_conv2d_pack__avx2(shape, file, packed);
    return;
  }
  static const int twice_g[4][3] = {{2, 0, 0}, {1, 1, 1}, {1, -1, 1}, {0, 0, 2}};
  const size_t depth = winograd_of(shape).depth;
  memset(packed, 0, edge_winograd_packed_bytes__avx2(shape));
  for (size_t o = 0; o < (size_t)shape->out_channels; ++o) {
    int16_t *block = (int16_t *)packed + o / TILE_OUTPUTS * PLACES * depth * TILE_OUTPUTS;
    for (size_t c = 0; c < (size_t)shape->channels; ++c, weight += 9) {
      int half[4][3];
      for (size_t i = 0; i < 4; ++i) {
        for (size_t x = 0; x < 3; ++x) {
          half[i][x] = 0;
          for (size_t y = 0; y < 3; ++y) half[i][x] += twice_g[i][y] * weight[3 * y + x];
        }
      }
      for (size_t place = 0; place < PLACES; ++place) {
        int value = 0;
        for (size_t x = 0; x < 3; ++x) value += half[place / 4][x] * twice_g[place % 4][x];
        block[place * depth * TILE_OUTPUTS + (c / 2 * TILE_OUTPUTS + o % TILE_OUTPUTS) * 2 + c % 2] = (int16_t)value;
      }
    }
  }
}

EDGE_INLINE void transform_four(const __m256i d[4], __m256i out[4]) {
  out[0] = _mm256_sub_epi16(d[0], d[2]);
  out[1] = _mm256_add_epi16(d[1], d[2]);
  out[2] = _mm256_sub_epi16(d[2], d[1]);
  out[3] = _mm256_sub_epi16(d[1], d[3]);
}

/* Sixteen channels of the codes of one tile, of which `rows` and `columns` lie in the image. */
EDGE_INLINE void transform_tile(const int8_t *codes, size_t pitch, size_t step, size_t rows, size_t columns,
                                int16_t *to, size_t depth) {
  __m256i half[4][4]; /* transformed down */
  for (size_t x = 0; x < 4; ++x) {
    __m256i d[4], t[4];
    for (size_t y = 0; y < 4; ++y) {
      d[y] = _mm256_setzero_si256();
      if (y < rows && x < columns) {
        d[y] = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(codes + y * pitch + x * step)));
      }
    }
    transform_four(d, t);
    for (size_t y = 0; y < 4; ++y) half[y][x] = t[y];
  }
  for (size_t y = 0; y < 4; ++y) {
    __m256i t[4];
    transform_four(half[y], t);
    for (size_t x = 0; x < 4; ++x) _mm256_storeu_si256((__m256i *)(to + (4 * y + x) * depth), t[x]);
  }
}

void edge_winograd_quantize__avx2(const edge_conv2d *shape, const float *x, bool channels_last, void *image,
                                  edge_row *row) {
  edge_qd8_conv2d_quantize__avx2(shape, x, channels_last, image, row);
  if (!is_winograd(shape)) return;
  const winograd own = winograd_of(shape);
  const conv_layout layout = layout_of(shape);
  const size_t channels = (size_t)shape->channels, width = layout.pitch / channels;
  int16_t *to = (int16_t *)((int8_t *)image + codes_bytes(shape));
  for (size_t ty = 0; ty < own.down; ++ty) {
    const size_t rows = layout.rows - 2 * ty < 4 ? layout.rows - 2 * ty : 4;
    for (size_t tx = 0; tx < own.across; ++tx, to += PLACES * own.depth) {
      const size_t columns = width - 2 * tx < 4 ? width - 2 * tx : 4;
      const int8_t *codes = (const int8_t *)image + 2 * ty * layout.pitch + 2 * tx * channels;
      /* What is read beyond the last channel is the next pixel's and meets weights of 0. */
      for (size_t c = 0; c < channels; c += 16) {
        if (rows == 4 && columns == 4) {
          transform_tile(codes + c, layout.pitch, channels, 4, 4, to + c, own.depth);
        } else {
          transform_tile(codes + c, layout.pitch, channels, rows, columns, to + c, own.depth);
        }
      }
    }
  }
}

/* Sums over the channels at one place of `tiles` tiles (a constant). */
EDGE_INLINE void sum_tiles(const size_t tiles, size_t depth, const int16_t *tile, const int16_t *weight, int32_t *sums) {
  __m256i sum[TILES][2];
  EDGE_UNROLL
  for (size_t t = 0; t < tiles; ++t) sum[t][0] = sum[t][1] = _mm256_setzero_si256();
  for (size_t c = 0; c < depth; c += 2, weight += 2 * TILE_OUTPUTS) {
    const __m256i low = _mm256_loadu_si256((const __m256i *)weight);
    const __m256i high = _mm256_loadu_si256((const __m256i *)(weight + TILE_OUTPUTS));
    EDGE_UNROLL
    for (size_t t = 0; t < tiles; ++t) {
      int32_t two;
      memcpy(&two, tile + t * PLACES * depth + c, sizeof two);
      const __m256i codes = _mm256_set1_epi32(two);
      sum[t][0] = _mm256_add_epi32(sum[t][0], _mm256_madd_epi16(low, codes));
      sum[t][1] = _mm256_add_epi32(sum[t][1], _mm256_madd_epi16(high, codes));
    }
  }
  EDGE_UNROLL
  for (size_t t = 0; t < tiles; ++t) {
    _mm256_storeu_si256((__m256i *)(sums + t * PLACES * TILE_OUTPUTS), sum[t][0]);
    _mm256_storeu_si256((__m256i *)(sums + t * PLACES * TILE_OUTPUTS + 8), sum[t][1]);
  }
}

/* From a tile's sixteen places to its four pixels, two of `row` and two of the next. */
EDGE_INLINE void finish_tile(const int32_t *sums, int32_t *row, int32_t *next) {
  for (size_t half = 0; half < 2; ++half) {
    __m256i down[2][4];
    for (size_t x = 0; x < 4; ++x) {
      __m256i m[4];
      for (size_t y = 0; y < 4; ++y) {
        m[y] = _mm256_loadu_si256((const __m256i *)(sums + (4 * y + x) * TILE_OUTPUTS + 8 * half));
      }
      down[0][x] = _mm256_add_epi32(_mm256_add_epi32(m[0], m[1]), m[2]);
      down[1][x] = _mm256_sub_epi32(_mm256_sub_epi32(m[1], m[2]), m[3]);
    }
    for (size_t y = 0; y < 2; ++y) {
      const __m256i *m = down[y];
      int32_t *to = (y == 0 ? row : next) + 8 * half;
      const __m256i left = _mm256_add_epi32(_mm256_add_epi32(m[0], m[1]), m[2]);
      const __m256i right = _mm256_sub_epi32(_mm256_sub_epi32(m[1], m[2]), m[3]);
      _mm256_storeu_si256((__m256i *)to, _mm256_srai_epi32(left, 2));
      _mm256_storeu_si256((__m256i *)(to + EDGE_PANEL), _mm256_srai_epi32(right, 2));
    }
  }
}

/* Of up to BLOCK_TILES tiles of one row of them, sixteen outputs. */
static void block_sums(const winograd *own, const int16_t *tile, size_t tiles, const int16_t *weight, int32_t *row,
                       int32_t *next) {
  _Alignas(32) int32_t sums[BLOCK_TILES * PLACES * TILE_OUTPUTS];
  for (size_t place = 0; place < PLACES; ++place) {
    const int16_t *at = tile + place * own->depth, *w = weight + place * own->depth * TILE_OUTPUTS;
    int32_t *to = sums + place * TILE_OUTPUTS;
    size_t t = 0;
    for (; t + TILES <= tiles; t += TILES) {
      sum_tiles(TILES, own->depth, at + t * PLACES * own->depth, w, to + t * PLACES * TILE_OUTPUTS);
    }
    for (; t + 2 <= tiles; t += 2) {
      sum_tiles(2, own->depth, at + t * PLACES * own->depth, w, to + t * PLACES * TILE_OUTPUTS);
    }
    if (t < tiles) sum_tiles(1, own->depth, at + t * PLACES * own->depth, w, to + t * PLACES * TILE_OUTPUTS);
  }
  for (size_t t = 0; t < tiles; ++t) {
    finish_tile(sums + t * PLACES * TILE_OUTPUTS, row + 2 * t * EDGE_PANEL, next + 2 * t * EDGE_PANEL);
  }
}

void edge_winograd__avx2(const edge_qd8_conv2d *conv, size_t first, size_t last) {
  const edge_conv2d *shape = &conv->shape;
  if (!is_winograd(shape)) {
    edge_qd8_conv2d__avx2(conv, first, last);
    return;
  }
  const winograd own = winograd_of(shape);
  const size_t width = (size_t)shape->out_width, channels = (size_t)shape->out_channels;
  const int16_t *tiles = (const int16_t *)((const int8_t *)conv->image + codes_bytes(shape));
  edge_row row[2 * BLOCK_TILES];
  for (size_t i = 0; i < 2 * BLOCK_TILES; ++i) row[i] = conv->row;
  for (size_t ty = first / 2; 2 * ty < last; ++ty) {
    for (size_t tx = 0; tx < own.across; tx += BLOCK_TILES) {
      const size_t count = own.across - tx < BLOCK_TILES ? own.across - tx : BLOCK_TILES;
      const int16_t *tile = tiles + (ty * own.across + tx) * PLACES * own.depth;
      const size_t pixels = width - 2 * tx < 2 * count ? width - 2 * tx : 2 * count;
      for (size_t o = 0; o < channels; o += EDGE_PANEL) {
        _Alignas(32) int32_t sums[2][2 * BLOCK_TILES * EDGE_PANEL];
        const size_t some = channels - o < EDGE_PANEL ? channels - o : EDGE_PANEL;
        for (size_t j = 0; j < some; j += TILE_OUTPUTS) {
          const int16_t *weight = (const int16_t *)conv->weight + (o + j) * PLACES * own.depth;
          block_sums(&own, tile, count, weight, sums[0] + j, sums[1] + j);
        }
        for (size_t y = 0; y < 2; ++y) {
          if (2 * ty + y < first || 2 * ty + y >= last) continue;
          const size_t pixel = (2 * ty + y) * width + 2 * tx;
          edge_qd8_gemm rest = {.rows = pixels, .row = row, .epilogue = conv->epilogue, .out = conv->out};
          rest.out.data += pixel * rest.out.row_step;
          if (rest.out.residual != NULL) rest.out.residual += pixel * rest.out.row_step;
          v_finish(&rest, sums[y], 0, o, some);
        }
      }
    }
  }
}
