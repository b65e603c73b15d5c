/* Random numbers, arrays and shapes for compare_kernels.c; everything follows from one seed. */
#ifndef EDGE_TESTS_RANDOM_CASES_H
#define EDGE_TESTS_RANDOM_CASES_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if !defined(__SANITIZE_ADDRESS__)
#include <sys/mman.h>
#endif

#include "kernels/kernels.h"
#include "kernels/math_f32.h"

static uint64_t random_state;

/* splitmix64 */
static uint64_t random_bits(void) {
  uint64_t z = random_state += 0x9E3779B97F4A7C15u;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
  z = (z ^ z >> 27) * 0x94D049BB133111EBu;
  return z ^ z >> 31;
}

static size_t between(size_t low, size_t high) { return low + (size_t)(random_bits() % (high - low + 1)); }
static bool one_in(size_t count) { return between(1, count) == 1; }

/* A length that kernels may treat apart: short, about a multiple of a vector, or anything up to `most`. */
static size_t length(size_t most) {
  if (one_in(4)) return between(1, most < 20 ? most : 20);
  if (one_in(2)) {
    const size_t near = 16 * between(1, most / 16 + 1) + between(0, 2) - 1;
    return near < most ? near : most;
  }
  return between(1, most);
}

/* --- memory of one case ------------------------------------------------------------------------------------------ */

/* Each piece ends at a page that must not be touched, or, under AddressSanitizer, at what that watches. */
typedef struct piece {
  char *memory;
  size_t bytes;
} piece;

static piece held[64];
static size_t held_count;

#if defined(__SANITIZE_ADDRESS__)
static piece piece_of(size_t bytes) {
  void *memory = NULL;
  if (posix_memalign(&memory, 64, bytes) != 0) abort();
  return (piece){memory, bytes};
}
static void release(piece one) { free(one.memory); }
#else
#define PAGE ((size_t)65536) /* as large as any */
static piece piece_of(size_t bytes) {
  const size_t whole = (bytes + PAGE - 1) / PAGE * PAGE;
  char *memory = mmap(NULL, whole + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory + whole, PAGE, PROT_NONE) != 0) abort();
  return (piece){memory, whole};
}
static void release(piece one) { munmap(one.memory, one.bytes + PAGE); }
#endif

static void release_all(void) {
  while (held_count > 0) release(held[--held_count]);
}

/* `bytes` of junk that start `shift` < 64 after a multiple of 64, or after one of the powers of two in `shift`. */
static void *room(size_t bytes, size_t shift) {
  if (held_count == sizeof held / sizeof held[0]) abort();
  const piece one = held[held_count++] = piece_of(shift + bytes + (shift + bytes == 0));
  size_t align = 64;
  while (shift % align != 0) align /= 2;
  memset(one.memory, 0xA5, one.bytes);
  return one.memory + (one.bytes - bytes) / align * align;
}

/* Floats lie at any multiple of their size: tensors are views. */
static float *float_room(size_t count) { return room(count * sizeof(float), one_in(2) ? 4 * between(0, 15) : 0); }

/* --- values ------------------------------------------------------------------------------------------------------ */

/* Roughly normal. */
static float normal(void) {
  float sum = 0.0f;
  for (int i = 0; i < 6; ++i) sum += (float)(random_bits() >> 40) * 0x1p-24f;
  return (sum - 3.0f) * 1.4142135f;
}

static float positive(int low_exponent, int high_exponent) {
  return ldexpf(1.0f + (float)(random_bits() >> 41) * 0x1p-23f,
                low_exponent + (int)between(0, (size_t)(high_exponent - low_exponent)));
}

/* `special` allows infinities and NaN. */
static void fill(float *values, size_t count, bool special) {
  const size_t kind = between(0, 9);
  const float scale = positive(-12, 12), constant = normal();
  for (size_t i = 0; i < count; ++i) {
    switch (kind) {
      case 0: values[i] = ldexpf(normal(), (int)between(0, 60) - 30); break;
      case 1: values[i] = (float)((int)between(0, 508) - 254) * 0.5f; break; /* ties, where the largest is 127 */
      case 2: values[i] = normal() * 1e-39f; break;                          /* subnormal */
      case 3: values[i] = one_in(2) ? constant : -constant; break;
      case 4: values[i] = one_in(3) ? normal() : one_in(2) ? 0.0f : -0.0f; break;
      default: values[i] = normal() * scale; break;
    }
  }
  if (kind == 1 && count > 0) values[between(0, count - 1)] = 127.0f;
  if (special && count > 0 && one_in(4)) {
    const float all[] = {NAN, INFINITY, -INFINITY, 3e38f, -3e38f, 1e-45f};
    for (size_t n = between(1, 4); n > 0; --n) values[between(0, count - 1)] = all[between(0, 5)];
  }
}

static float *random_floats(size_t count, bool special) {
  float *values = float_room(count);
  fill(values, count, special);
  return values;
}

/* Two buffers of the same content for the outputs of the two implementations; some behind must stay as it is. */
static size_t output_pair(size_t count, float **expected, float **got) {
  count += between(0, 33);
  *expected = float_room(count);
  *got = float_room(count);
  for (size_t i = 0; i < count; ++i) (*expected)[i] = (*got)[i] = -12345.678f;
  return count;
}

/* --- shapes ------------------------------------------------------------------------------------------------------ */

/* `outputs` epilogues: scales that now and then leave the normal range, bias, any activation. */
static edge_epilogue random_epilogue(size_t outputs, bool may_be_compat) {
  edge_epilogue epilogue = {.scale_step = one_in(4) ? 0 : 1, .activation = (int)between(0, EDGE_ACT_COUNT - 1)};
  const size_t count = epilogue.scale_step ? outputs : 1;
  float *scales = float_room(count);
  const bool extreme = one_in(10);
  for (size_t i = 0; i < count; ++i) scales[i] = extreme ? positive(-120, 100) : positive(-14, 2);
  epilogue.scales = scales;
  if (one_in(2)) epilogue.bias = random_floats(outputs, false);
  epilogue.bitlinear_compat = may_be_compat && one_in(4);
  return epilogue;
}

static int32_t conv_output(int32_t in, int32_t kernel, int32_t stride, int32_t padding, int32_t dilation) {
  const int32_t room_left = in + 2 * padding - dilation * (kernel - 1) - 1;
  return room_left < 0 ? 0 : room_left / stride + 1;
}

static edge_conv2d random_conv(void) {
  for (;;) {
    edge_conv2d conv = {.batch = 1, .groups = 1};
    int32_t group_channels = (int32_t)between(1, one_in(2) ? 4 : 36), group_outputs = (int32_t)length(40);
    if (one_in(3)) { /* depthwise, sometimes with a multiplier */
      conv.groups = (int32_t)length(one_in(2) ? 40 : 200);
      group_channels = 1;
      group_outputs = one_in(4) ? (int32_t)between(2, 3) : 1;
    } else if (one_in(3)) {
      conv.groups = (int32_t)between(2, 4);
      group_outputs = (int32_t)between(1, 20);
    }
    conv.channels = conv.groups * group_channels;
    conv.out_channels = conv.groups * group_outputs;
    conv.height = (int32_t)between(1, 14);
    conv.width = (int32_t)between(1, one_in(8) ? 150 : 24);
    if (one_in(2)) { /* as most networks have them */
      conv.kernel_h = conv.kernel_w = 3;
      conv.stride_h = conv.stride_w = (int32_t)between(1, 2);
      conv.padding_h = conv.padding_w = conv.dilation_h = conv.dilation_w = 1;
    } else if (one_in(3)) {
      conv.kernel_h = (int32_t)between(1, 9);
      conv.kernel_w = one_in(2) ? 3 : 5;
      conv.stride_h = (int32_t)between(1, 2);
      conv.stride_w = conv.dilation_w = 1;
      conv.dilation_h = (int32_t)between(1, 2);
      conv.padding_h = (int32_t)between(0, (size_t)conv.kernel_h);
      conv.padding_w = (int32_t)between(0, (size_t)conv.kernel_w);
    } else {
      conv.kernel_h = (int32_t)between(1, 7);
      conv.kernel_w = (int32_t)between(1, 7);
      conv.stride_h = (int32_t)between(1, 3);
      conv.stride_w = (int32_t)between(1, 3);
      conv.dilation_h = (int32_t)between(1, 3);
      conv.dilation_w = (int32_t)between(1, 3);
      conv.padding_h = (int32_t)between(0, (size_t)conv.kernel_h);
      conv.padding_w = (int32_t)between(0, (size_t)conv.kernel_w);
    }
    if (one_in(6)) { /* what may go by Winograd's way, which wants many channels */
      conv.groups = 1;
      conv.channels = group_channels = (int32_t)between(15, 40);
      conv.out_channels = (int32_t)between(15, 80);
      conv.width = (int32_t)between(1, one_in(4) ? 60 : 12);
      conv.height = (int32_t)between(1, 6);
      conv.kernel_h = conv.kernel_w = 3;
      conv.stride_h = conv.stride_w = conv.dilation_h = conv.dilation_w = 1;
      conv.padding_h = (int32_t)between(0, 2);
      conv.padding_w = (int32_t)between(0, 2);
    }
    conv.out_height = conv_output(conv.height, conv.kernel_h, conv.stride_h, conv.padding_h, conv.dilation_h);
    conv.out_width = conv_output(conv.width, conv.kernel_w, conv.stride_w, conv.padding_w, conv.dilation_w);
    const double macs = (double)conv.out_channels * group_channels * conv.kernel_h * conv.kernel_w *
                        conv.out_height * conv.out_width;
    if (conv.out_height > 0 && conv.out_width > 0 && macs < 2e6) return conv;
  }
}

static size_t conv_inputs(const edge_conv2d *c) { return (size_t)c->channels * (size_t)c->height * (size_t)c->width; }
static size_t conv_outputs(const edge_conv2d *c) {
  return (size_t)c->out_channels * (size_t)c->out_height * (size_t)c->out_width;
}
static size_t conv_weights(const edge_conv2d *c) {
  return (size_t)c->out_channels * (size_t)(c->channels / c->groups) * (size_t)(c->kernel_h * c->kernel_w);
}

#endif
