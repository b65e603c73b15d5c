/* int8 convolutions of a microcontroller, output by output: scalar/qd8_f32_qc8w_conv2d.c has the contract.
 *
 * With the DSP extension, a row of a kernel that is at most four wide (depthwise ones, stems) meets one word of codes,
 * and two SMLADs multiply it; what lies beside a row of the image is masked out. Words at the image's ends are read up to eight
 * bytes beyond, where the operator's other memory is.
 */
#include "kernels/micro/micro.h"

#if defined(EDGE_BARE_METAL)

#include "kernels/armv7e_m_dsp/armv7e_m_dsp.h"
#include "kernels/micro/finish.h"
#include "kernels/scalar/epilogue.h"

#include <string.h>

/* Rows of a kernel, of all its channels, whose weights are on the stack. */
#define MOST_ROWS 64

/* Nothing is kept there: it lies behind the image, which words may reach beyond. */
size_t edge_qd8_f32_qc8w_conv2d_scratch__micro(const edge_conv2d *shape) {
  (void)shape;
  return 16;
}

/* The part of a kernel that lies on the image, at one output; `codes` is where its first row and column would. */
typedef struct part {
  const int8_t *codes;
  size_t down, plane; /* codes from a row of the kernel to the next, and from a channel */
  int32_t begin, end; /* rows */
  int32_t left, right; /* columns */
} part;

static int32_t sum_of(const part *on, int32_t channels, int32_t kernel_h, int32_t kernel_w, int32_t across,
                      const int8_t *weight) {
  int32_t sum = 0;
  for (int32_t c = 0; c < channels; ++c, weight += kernel_h * kernel_w) {
    for (int32_t r = on->begin; r < on->end; ++r) {
      const int8_t *codes = on->codes + (size_t)c * on->plane + (size_t)r * on->down;
      const int8_t *w = weight + r * kernel_w;
      for (int32_t i = on->left; i < on->right; ++i) sum += codes[i * across] * w[i];
    }
  }
  return sum;
}

#if defined(EDGE_HAS_ARMV7E_M_DSP)
/* Half words 0 and 2 of a kernel's row in one word, 1 and 3 in the other. */
typedef struct row_weights {
  uint32_t even, odd;
} row_weights;

static row_weights row_of(const int8_t *weight, size_t width) {
  int32_t w[4] = {0};
  for (size_t i = 0; i < width; ++i) w[i] = weight[i];
  return (row_weights){((uint32_t)w[0] & 0xFFFF) | (uint32_t)w[2] << 16,
                       ((uint32_t)w[1] & 0xFFFF) | (uint32_t)w[3] << 16};
}

/* The bytes of a word at `column` that a kernel of so many columns may meet inside a row of the image. */
static uint32_t mask_of(int32_t column, int32_t kernel_w, int32_t width) {
  uint32_t mask = 0;
  for (int32_t i = 0; i < kernel_w; ++i) {
    if (column + i >= 0 && column + i < width) mask |= 0xFFu << 8 * i;
  }
  return mask;
}

/* Outputs x .. x + count - 1 of row y; `codes` is where the kernel's first row on the image and column of x would lie. */
static void convolve_words(const edge_qd8_conv2d *job, int32_t o, size_t at, size_t count, const int8_t *codes,
                           const uint32_t *masks, const row_weights *first, const row_weights *end, size_t channels) {
  const edge_conv2d *conv = &job->shape;
  const edge_epilogue *epilogue = &job->epilogue;
  const size_t plane = (size_t)conv->width, stride = (size_t)conv->stride_w; /* of a channel of a row of the image */
  const size_t down = (size_t)conv->dilation_h * (size_t)conv->channels * plane;
  const bool usual = epilogue->activation <= EDGE_ACT_RELU && job->out.residual == NULL;
  const bool relu = epilogue->activation == EDGE_ACT_RELU;
  const float scale = epilogue->scales[(size_t)o * epilogue->scale_step] * job->row.step;
  const float *bias = epilogue->bias != NULL ? epilogue->bias + o : NULL;
  float *out = job->out.data + at * job->out.row_step + (size_t)o * job->out.step;
  for (const uint32_t *last = masks + count; masks < last; ++masks, codes += stride, ++at) {
    const uint32_t mask = *masks;
    const row_weights *from = first, *to = end;
    int32_t sum = 0;
    for (size_t c = 0; c < channels; ++c, from += conv->kernel_h, to += conv->kernel_h) {
      const int8_t *line = codes + c * plane;
      for (const row_weights *row = from; row < to; ++row, line += down) {
        uint32_t word;
        memcpy(&word, line, sizeof word);
        word &= mask;
        sum = edge_smlad(edge_sxtb16(word), row->even, sum);
        sum = edge_smlad(edge_sxtb16_ror8(word), row->odd, sum);
      }
    }
    if (usual) {
#if defined(__ARM_FP)
      float y = (float)sum * scale;
      if (bias != NULL) y += *bias;
      *out = relu ? edge_reluf(y) : y;
#else
      *out = edge_micro_finish_value(sum, scale, bias, relu);
#endif
    } else {
      edge_store(&job->out, at, (size_t)o, edge_dequantize(sum, (size_t)o, &job->row, epilogue));
    }
    out += job->out.row_step;
  }
}

/* Outputs of a row whose masks are on the stack. */
#define COLUMNS_AT_ONCE 32

static void convolve_by_words(const edge_qd8_conv2d *job, size_t first_row, size_t last_row) {
  const edge_conv2d *conv = &job->shape;
  const int32_t channels = conv->channels / conv->groups, outputs = conv->out_channels / conv->groups;
  const int8_t *image = job->image;
  const ptrdiff_t line = (ptrdiff_t)conv->channels * conv->width;
  for (int32_t x = 0, count; x < conv->out_width; x += count) {
    uint32_t masks[COLUMNS_AT_ONCE];
    const int32_t left = x * conv->stride_w - conv->padding_w;
    count = conv->out_width - x < COLUMNS_AT_ONCE ? conv->out_width - x : COLUMNS_AT_ONCE;
    for (int32_t i = 0; i < count; ++i) masks[i] = mask_of(left + i * conv->stride_w, conv->kernel_w, conv->width);
    const int8_t *weight = job->weight;
    for (int32_t o = 0; o < conv->out_channels; ++o) {
      row_weights rows[MOST_ROWS];
      for (int32_t r = 0; r < channels * conv->kernel_h; ++r, weight += conv->kernel_w) {
        rows[r] = row_of(weight, (size_t)conv->kernel_w);
      }
      const int8_t *own = image + (size_t)(o / outputs * channels) * (size_t)conv->width;
      for (int32_t y = (int32_t)first_row; y < (int32_t)last_row; ++y) {
        const int32_t top = y * conv->stride_h - conv->padding_h; /* where the kernel's first row lies */
        int32_t begin = 0, end = conv->kernel_h;
        while (begin < end && top + begin * conv->dilation_h < 0) ++begin;
        while (begin < end && top + (end - 1) * conv->dilation_h >= conv->height) --end;
        const int8_t *codes = own + (ptrdiff_t)(top + begin * conv->dilation_h) * line + left;
        convolve_words(job, o, (size_t)y * (size_t)conv->out_width + (size_t)x, (size_t)count, codes, masks,
                       rows + begin, rows + end, (size_t)channels);
      }
    }
  }
}
#endif

void edge_qd8_f32_qc8w_conv2d__micro(const edge_qd8_conv2d *job, size_t first_row, size_t last_row) {
  const edge_conv2d *conv = &job->shape;
  const edge_epilogue *epilogue = &job->epilogue;
  const int32_t channels = conv->channels / conv->groups, outputs = conv->out_channels / conv->groups;
  const int8_t *image = job->image, *weight = job->weight;
  const int32_t taps = channels * conv->kernel_h * conv->kernel_w;
  const bool usual = epilogue->activation <= EDGE_ACT_RELU && job->out.residual == NULL;
#if defined(EDGE_HAS_ARMV7E_M_DSP)
  if (conv->kernel_w <= 4 && conv->dilation_w == 1 && conv->kernel_h <= MOST_ROWS / channels && conv->padding_w <= 4) {
    convolve_by_words(job, first_row, last_row);
    return;
  }
#endif
  const ptrdiff_t line = (ptrdiff_t)conv->channels * conv->width;
  part on = {.down = (size_t)(conv->dilation_h * line), .plane = (size_t)conv->width};
  for (int32_t o = 0; o < conv->out_channels; ++o, weight += taps) {
    const int8_t *first = image + (size_t)(o / outputs * channels) * on.plane;
    const float scale = epilogue->scales[(size_t)o * epilogue->scale_step] * job->row.step;
    const float *bias = epilogue->bias != NULL ? epilogue->bias + o : NULL;
    for (int32_t y = (int32_t)first_row; y < (int32_t)last_row; ++y) {
      const int32_t top = y * conv->stride_h - conv->padding_h; /* where the kernel's first row lies */
      on.begin = 0;
      on.end = conv->kernel_h;
      while (on.begin < on.end && top + on.begin * conv->dilation_h < 0) ++on.begin;
      while (on.begin < on.end && top + (on.end - 1) * conv->dilation_h >= conv->height) --on.end;
      size_t at = (size_t)y * (size_t)conv->out_width;
      int32_t column = -conv->padding_w;
      for (int32_t x = 0; x < conv->out_width; ++x, ++at, column += conv->stride_w) {
        on.codes = first + top * line + column;
        on.left = 0;
        on.right = conv->kernel_w;
        while (on.left < on.right && column + on.left * conv->dilation_w < 0) ++on.left;
        while (on.left < on.right && column + (on.right - 1) * conv->dilation_w >= conv->width) --on.right;
        int32_t sum = 0;
        if (on.left < on.right) {
          sum = sum_of(&on, channels, conv->kernel_h, conv->kernel_w, conv->dilation_w, weight);
        }
        if (usual) {
          job->out.data[at * job->out.row_step + (size_t)o * job->out.step] =
              edge_micro_finish_value(sum, scale, bias, epilogue->activation == EDGE_ACT_RELU);
        } else {
          edge_store(&job->out, at, (size_t)o, edge_dequantize(sum, (size_t)o, &job->row, epilogue));
        }
      }
    }
  }
}

#endif
