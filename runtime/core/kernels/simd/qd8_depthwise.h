/* Sums of depthwise int8 convolutions, for simd/qd8_conv2d.h.
 *
 * Sixteen channels are lanes, and the codes of four kernel rows lie side by side in each: a quad, of which one
 * instruction or a few make a sum of products. Where the kernel's height is no multiple of four, the weights are 0. The
 * image holds a pixel's codes in whole blocks of EDGE_BLOCK vectors, as vi_quads takes them, each plus DENSE_OFFSET.
 *
 * Packed, the weights are
 *
 *   start[channel], packed[sixteen channels][quad of kernel rows][kernel column][channel][kernel row of the quad]
 *
 * with whole blocks of channels; start is what the sum of a channel starts from, to take the offset off.
 *
 * The file that includes this defines before
 *   DEPTHWISE_VECTORS       vectors of sixteen channels that a loop has in registers: EDGE_BLOCK or half of it
 * and gives
 *   vi_dot(sum, quads, w)   of each lane the sum, plus the four products of the quad; no code is -128 before the offset
 */

EDGE_INLINE vi vi_dot(vi sum, vi quads, vi w);

#define DEPTHWISE_WORDS 16 /* of weights of four kernel rows: sixteen channels */

EDGE_INLINE size_t depthwise_channels(size_t channels) {
  const size_t block = 16 * EDGE_BLOCK;
  return (channels + block - 1) / block * block;
}

EDGE_INLINE size_t depthwise_quads(const edge_conv2d *shape) { return ((size_t)shape->kernel_h + 3) / 4; }

/* Words of the weights of sixteen channels. */
EDGE_INLINE size_t depthwise_step(const edge_conv2d *shape) {
  return depthwise_quads(shape) * (size_t)shape->kernel_w * DEPTHWISE_WORDS;
}

static size_t depthwise_bytes(const edge_conv2d *shape) {
  const size_t channels = depthwise_channels((size_t)shape->channels);
  return (channels + channels / 16 * depthwise_step(shape)) * sizeof(int32_t);
}

/* Into zeroed memory. */
static void depthwise_pack(const edge_conv2d *shape, const int8_t *weight, void *packed) {
  const size_t wide = (size_t)shape->kernel_w, step = depthwise_step(shape);
  int32_t *start = packed;
  int8_t *to = (int8_t *)(start + depthwise_channels((size_t)shape->channels));
  for (size_t c = 0; c < (size_t)shape->channels; ++c) {
    for (size_t kh = 0; kh < (size_t)shape->kernel_h; ++kh) {
      for (size_t kw = 0; kw < wide; ++kw, ++weight) {
        to[4 * (c / 16 * step + (kh / 4 * wide + kw) * DEPTHWISE_WORDS + c % 16) + kh % 4] = *weight;
        start[c] -= DENSE_OFFSET * *weight;
      }
    }
  }
}

/* Four rows of codes, of which `left` exist. */
EDGE_INLINE void four_rows_from(const int8_t *first, size_t step, size_t left, const int8_t *row[4]) {
  for (size_t i = 0; i < 4; ++i) row[i] = first + (i < left ? i * step : 0);
}

/* A row of pixels, from channel 0 on. */
typedef struct depthwise_job {
  size_t pixel, column, kernel_row; /* codes from what one pixel, kernel column, kernel row meets to the next */
  size_t high, wide;                /* rows and columns of the kernel */
  const int32_t *start, *weight;
  size_t weight_step; /* words of sixteen channels */
  /* Where sums can become outputs as they are made: with a bias and a ReLU, channels last, no residual, whole vectors. */
  const float *factor, *bias; /* of the channel of `start`; factor is NULL where they cannot */
  float *out;                 /* of the first pixel */
  size_t out_step;            /* floats from one pixel to the next */
} depthwise_job;

/* Weights by kernel column, and the sums of the pixels whose turn comes after as many columns. */
typedef struct depthwise_window {
  vi w[5][DEPTHWISE_VECTORS], sum[5][DEPTHWISE_VECTORS];
} depthwise_window;

/* One column of codes: gives the sums of the pixel that it ends, and starts those of the one that it begins. */
EDGE_INLINE void depthwise_column(const size_t wide, const size_t i, const int8_t *const row[4], size_t at,
                                  const int32_t *start, depthwise_window *window, vi done[DEPTHWISE_VECTORS]) {
  EDGE_UNROLL
  for (size_t g = 0; g < DEPTHWISE_VECTORS; ++g) {
    const vi quads = vi_quads(row, at, i + g);
    window->sum[wide - 1][g] = vi_load(start + 16 * g);
    done[g] = vi_dot(window->sum[0][g], quads, window->w[wide - 1][g]);
    EDGE_UNROLL
    for (size_t k = 1; k < wide; ++k) {
      window->sum[k - 1][g] = vi_dot(window->sum[k][g], quads, window->w[wide - 1 - k][g]);
    }
  }
}

/* Pixels side by side with `wide` kernel columns side by side (a constant): each quad of codes serves as many pixels,
 * whose sums wait in registers. `i` (a constant): the first vector's place in its block. `finished` (a constant): the
 * outputs are written, and not the sums. */
EDGE_INLINE void depthwise_slide(const size_t wide, const size_t i, const bool finished, const depthwise_job *job,
                                 const int8_t *first, size_t count, int32_t *sums) {
  const int32_t *start = job->start, *weight = job->weight;
  size_t step = 0; /* of start; behind the first quad of kernel rows a pixel starts from its sums so far */
  for (size_t kh = 0; kh < job->high; kh += 4, start = sums, step = EDGE_PANEL, weight += wide * DEPTHWISE_WORDS) {
    const int8_t *row[4];
    four_rows_from(first + kh * job->kernel_row, job->kernel_row, job->high - kh, row);
    depthwise_window window;
    vi done[DEPTHWISE_VECTORS];
    EDGE_UNROLL
    for (size_t g = 0; g < DEPTHWISE_VECTORS; ++g) {
      EDGE_UNROLL
      for (size_t kw = 0; kw < wide; ++kw) {
        window.w[kw][g] = vi_load(weight + g * job->weight_step + kw * DEPTHWISE_WORDS);
        window.sum[kw][g] = vi_set(0);
      }
    }
    size_t at = 0;
    for (size_t x = 0; x < wide - 1; ++x, at += job->pixel) {
      depthwise_column(wide, i, row, at, start + (x < count ? x : 0) * step, &window, done);
    }
    int32_t *to = sums;
    float *out = job->out;
    for (size_t x = wide - 1; x < count + wide - 1; ++x, at += job->pixel, to += EDGE_PANEL) {
      depthwise_column(wide, i, row, at, start + (x < count ? x : 0) * step, &window, done);
      EDGE_UNROLL
      for (size_t g = 0; g < DEPTHWISE_VECTORS; ++g) {
        if (finished) {
          const vf y = vf_mul(vi_to_float(done[g]), vf_load(job->factor + 16 * g));
          vf_store(out + 16 * g, v_activate(vf_add(y, vf_load(job->bias + 16 * g)), EDGE_ACT_RELU));
        } else {
          vi_store(to + 16 * g, done[g]);
        }
      }
      if (finished) out += job->out_step;
    }
  }
}

/* Any others. */
EDGE_INLINE void depthwise_pixels(const size_t i, const depthwise_job *job, const int8_t *first, size_t count,
                                  int32_t *sums) {
  for (size_t x = 0; x < count; ++x, sums += EDGE_PANEL) {
    const int32_t *weight = job->weight;
    vi sum[DEPTHWISE_VECTORS];
    EDGE_UNROLL
    for (size_t g = 0; g < DEPTHWISE_VECTORS; ++g) sum[g] = vi_load(job->start + 16 * g);
    for (size_t kh = 0; kh < job->high; kh += 4) {
      const int8_t *row[4];
      four_rows_from(first + kh * job->kernel_row, job->kernel_row, job->high - kh, row);
      for (size_t kw = 0; kw < job->wide; ++kw, weight += DEPTHWISE_WORDS) {
        const size_t at = x * job->pixel + kw * job->column;
        EDGE_UNROLL
        for (size_t g = 0; g < DEPTHWISE_VECTORS; ++g) {
          sum[g] = vi_dot(sum[g], vi_quads(row, at, i + g), vi_load(weight + g * job->weight_step));
        }
      }
    }
    EDGE_UNROLL
    for (size_t g = 0; g < DEPTHWISE_VECTORS; ++g) vi_store(sums + 16 * g, sum[g]);
  }
}

EDGE_INLINE void depthwise_vectors(const size_t i, const depthwise_job *job, const int8_t *first, size_t count,
                                   int32_t *sums) {
  const bool side_by_side = job->column == job->pixel;
  if (side_by_side && job->wide == 3 && job->factor != NULL) {
    depthwise_slide(3, i, true, job, first, count, sums);
  } else if (side_by_side && job->wide == 3) {
    depthwise_slide(3, i, false, job, first, count, sums);
  } else if (side_by_side && job->wide == 5) {
    depthwise_slide(5, i, false, job, first, count, sums);
  } else {
    depthwise_pixels(i, job, first, count, sums);
  }
}

/* The sums of `count` pixels of a row, of which the first meets the codes from `code` on, and of the `channels`
 * channels from `first` on, a multiple of EDGE_PANEL; job->factor begins there. */
static void depthwise_sums(const depthwise_job *job, const int8_t *code, size_t count, size_t first, size_t channels,
                           int32_t *sums) {
  for (size_t c = 0; c < channels; c += 16 * DEPTHWISE_VECTORS) {
    const size_t channel = first + c, i = channel / 16 % EDGE_BLOCK;
    depthwise_job some = *job;
    some.start += channel;
    some.weight += channel / 16 * job->weight_step;
    if (job->factor != NULL) {
      some.factor += c;
      some.bias += channel;
      some.out += channel;
    }
    if (i == 0) {
      depthwise_vectors(0, &some, code + channel, count, sums + c);
    } else {
      depthwise_vectors(EDGE_BLOCK - DEPTHWISE_VECTORS, &some, code + channel - 16 * i, count, sums + c);
    }
  }
}
