/* Sixteen lanes in four NEON registers: what kernels/simd is written over. See simd/README.md for the names.
 *
 * aarch64 only: 32-bit ARM flushes subnormal numbers in vectors, and has neither division nor rounding there.
 */
#ifndef EDGE_VECTOR_NEON_H
#define EDGE_VECTOR_NEON_H

#include <arm_neon.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/simd/target.h"

#define EDGE_SIMD(name) name##__neon

/* Rows and vectors of a float tile: 20 of the 32 registers hold sums. */
#define EDGE_TILE_ROWS 5
#define EDGE_TILE_VECTORS 1
/* Vectors whose codes fill a register. */
#define EDGE_BLOCK 1

/* Members, not an array: compilers keep them in registers. */
typedef struct vf {
  float32x4_t a, b, c, d;
} vf;
typedef struct vi {
  int32x4_t a, b, c, d;
} vi;
typedef struct vs {
  int16x8_t a, b, c, d;
} vs;
typedef struct vm {
  uint32x4_t a, b, c, d;
} vm;

#define EDGE_EACH_1(type, f, x) ((type){f((x).a), f((x).b), f((x).c), f((x).d)})
#define EDGE_EACH_2(type, f, x, y) ((type){f((x).a, (y).a), f((x).b, (y).b), f((x).c, (y).c), f((x).d, (y).d)})

EDGE_INLINE vm vm_first(size_t n) {
  const uint32x4_t from = {0, 1, 2, 3}, count = vdupq_n_u32((uint32_t)n), four = vdupq_n_u32(4);
  vm index = {from, vaddq_u32(from, four)};
  index.c = vaddq_u32(index.b, four);
  index.d = vaddq_u32(index.c, four);
  return (vm){vcltq_u32(index.a, count), vcltq_u32(index.b, count), vcltq_u32(index.c, count),
              vcltq_u32(index.d, count)};
}
EDGE_INLINE vm vm_either(vm x, vm y) { return EDGE_EACH_2(vm, vorrq_u32, x, y); }

EDGE_INLINE vf vf_set(float x) {
  const float32x4_t four = vdupq_n_f32(x);
  return (vf){four, four, four, four};
}
EDGE_INLINE vf vf_load(const float *p) {
  return (vf){vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)};
}
EDGE_INLINE void vf_store(float *p, vf x) {
  vst1q_f32(p, x.a);
  vst1q_f32(p + 4, x.b);
  vst1q_f32(p + 8, x.c);
  vst1q_f32(p + 12, x.d);
}
EDGE_INLINE vf vf_load_first(const float *p, size_t n) {
  if (n == 16) return vf_load(p);
  float own[16] = {0};
  memcpy(own, p, n * sizeof(float));
  return vf_load(own);
}
EDGE_INLINE void vf_store_first(float *p, vf x, size_t n) {
  if (n == 16) {
    vf_store(p, x);
    return;
  }
  float own[16];
  vf_store(own, x);
  memcpy(p, own, n * sizeof(float));
}
EDGE_INLINE vf vf_select(vm m, vf yes, vf no) {
  return (vf){vbslq_f32(m.a, yes.a, no.a), vbslq_f32(m.b, yes.b, no.b), vbslq_f32(m.c, yes.c, no.c),
              vbslq_f32(m.d, yes.d, no.d)};
}
EDGE_INLINE vf vf_first(vf x, size_t n) { return vf_select(vm_first(n), x, vf_set(0.0f)); }
EDGE_INLINE vf vf_add(vf x, vf y) { return EDGE_EACH_2(vf, vaddq_f32, x, y); }
EDGE_INLINE vf vf_sub(vf x, vf y) { return EDGE_EACH_2(vf, vsubq_f32, x, y); }
EDGE_INLINE vf vf_mul(vf x, vf y) { return EDGE_EACH_2(vf, vmulq_f32, x, y); }
EDGE_INLINE vf vf_div(vf x, vf y) { return EDGE_EACH_2(vf, vdivq_f32, x, y); }
EDGE_INLINE vf vf_sqrt(vf x) { return EDGE_EACH_1(vf, vsqrtq_f32, x); }
EDGE_INLINE vf vf_abs(vf x) { return EDGE_EACH_1(vf, vabsq_f32, x); }
EDGE_INLINE vf vf_neg(vf x) { return EDGE_EACH_1(vf, vnegq_f32, x); }
EDGE_INLINE vf vf_rint(vf x) { return EDGE_EACH_1(vf, vrndnq_f32, x); }
EDGE_INLINE vm vf_less(vf x, vf y) { return EDGE_EACH_2(vm, vcltq_f32, x, y); }
EDGE_INLINE vf vf_larger(vf x, vf y) { return vf_select(vf_less(y, x), x, y); }
EDGE_INLINE vf vf_smaller(vf x, vf y) { return vf_select(vf_less(x, y), x, y); }
EDGE_INLINE vm vf_nan(vf x) {
  return (vm){vmvnq_u32(vceqq_f32(x.a, x.a)), vmvnq_u32(vceqq_f32(x.b, x.b)), vmvnq_u32(vceqq_f32(x.c, x.c)),
              vmvnq_u32(vceqq_f32(x.d, x.d))};
}

EDGE_INLINE float vf_fold(vf x) {
  const float32x4_t four = vaddq_f32(vaddq_f32(x.a, x.c), vaddq_f32(x.b, x.d));
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
EDGE_INLINE float vf_largest(vf x) {
  return vmaxvq_f32(vmaxq_f32(vmaxq_f32(x.a, x.b), vmaxq_f32(x.c, x.d)));
}

/* Four by four. */
EDGE_INLINE void edge_turnq(float32x4_t *a, float32x4_t *b, float32x4_t *c, float32x4_t *d) {
  const float64x2_t ab = vreinterpretq_f64_f32(vtrn1q_f32(*a, *b)), ba = vreinterpretq_f64_f32(vtrn2q_f32(*a, *b));
  const float64x2_t cd = vreinterpretq_f64_f32(vtrn1q_f32(*c, *d)), dc = vreinterpretq_f64_f32(vtrn2q_f32(*c, *d));
  *a = vreinterpretq_f32_f64(vtrn1q_f64(ab, cd));
  *b = vreinterpretq_f32_f64(vtrn1q_f64(ba, dc));
  *c = vreinterpretq_f32_f64(vtrn2q_f64(ab, cd));
  *d = vreinterpretq_f32_f64(vtrn2q_f64(ba, dc));
}

#define EDGE_SWAP(x, y)          \
  do {                           \
    const float32x4_t other = x; \
    x = y;                       \
    y = other;                   \
  } while (0)

EDGE_INLINE void vf_turn(vf t[16]) {
  for (size_t i = 0; i < 16; i += 4) {
    edge_turnq(&t[i].a, &t[i + 1].a, &t[i + 2].a, &t[i + 3].a);
    edge_turnq(&t[i].b, &t[i + 1].b, &t[i + 2].b, &t[i + 3].b);
    edge_turnq(&t[i].c, &t[i + 1].c, &t[i + 2].c, &t[i + 3].c);
    edge_turnq(&t[i].d, &t[i + 1].d, &t[i + 2].d, &t[i + 3].d);
  }
  for (size_t i = 0; i < 4; ++i) {
    EDGE_SWAP(t[i].b, t[i + 4].a);
    EDGE_SWAP(t[i].c, t[i + 8].a);
    EDGE_SWAP(t[i].d, t[i + 12].a);
    EDGE_SWAP(t[i + 4].c, t[i + 8].b);
    EDGE_SWAP(t[i + 4].d, t[i + 12].b);
    EDGE_SWAP(t[i + 8].d, t[i + 12].c);
  }
}

/* Folded to four lanes first: a quarter as much to turn. */
#define EDGE_EACH_OF_FOUR(name, operation)                                                                   \
  EDGE_INLINE float32x4_t name##_of_four(const vf t[4]) {                                                    \
    float32x4_t u[4];                                                                                        \
    for (size_t i = 0; i < 4; ++i) u[i] = operation(operation(t[i].a, t[i].c), operation(t[i].b, t[i].d));   \
    edge_turnq(&u[0], &u[1], &u[2], &u[3]);                                                                  \
    return operation(operation(u[0], u[2]), operation(u[1], u[3]));                                          \
  }                                                                                                          \
  EDGE_INLINE vf name(const vf t[16]) {                                                                      \
    return (vf){name##_of_four(t), name##_of_four(t + 4), name##_of_four(t + 8), name##_of_four(t + 12)};    \
  }
EDGE_EACH_OF_FOUR(vf_fold_each, vaddq_f32)
EDGE_EACH_OF_FOUR(vf_largest_each, vmaxq_f32)
#undef EDGE_EACH_OF_FOUR

EDGE_INLINE vi vi_set(int32_t x) {
  const int32x4_t four = vdupq_n_s32(x);
  return (vi){four, four, four, four};
}
EDGE_INLINE vi vi_load(const int32_t *p) {
  return (vi){vld1q_s32(p), vld1q_s32(p + 4), vld1q_s32(p + 8), vld1q_s32(p + 12)};
}
EDGE_INLINE void vi_store(int32_t *p, vi x) {
  vst1q_s32(p, x.a);
  vst1q_s32(p + 4, x.b);
  vst1q_s32(p + 8, x.c);
  vst1q_s32(p + 12, x.d);
}
EDGE_INLINE vi vi_add(vi x, vi y) { return EDGE_EACH_2(vi, vaddq_s32, x, y); }
EDGE_INLINE vi vi_sub(vi x, vi y) { return EDGE_EACH_2(vi, vsubq_s32, x, y); }
EDGE_INLINE vi vi_mul(vi x, vi y) { return EDGE_EACH_2(vi, vmulq_s32, x, y); }
EDGE_INLINE vi vi_half(vi x) {
  return (vi){vshrq_n_s32(x.a, 1), vshrq_n_s32(x.b, 1), vshrq_n_s32(x.c, 1), vshrq_n_s32(x.d, 1)};
}
EDGE_INLINE int32_t vi_fold(vi x) { return vaddvq_s32(vaddq_s32(vaddq_s32(x.a, x.b), vaddq_s32(x.c, x.d))); }
EDGE_INLINE vf vi_to_float(vi x) { return EDGE_EACH_1(vf, vcvtq_f32_s32, x); }
EDGE_INLINE vi vf_to_int(vf x) { return EDGE_EACH_1(vi, vcvtnq_s32_f32, x); }
EDGE_INLINE float32x4_t edge_pow2q(int32x4_t n) {
  return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23));
}
EDGE_INLINE vf vi_pow2(vi n) { return EDGE_EACH_1(vf, edge_pow2q, n); }

EDGE_INLINE vi vi_load_codes(const int8_t *p) {
  const int8x16_t codes = vld1q_s8(p);
  const int16x8_t low = vmovl_s8(vget_low_s8(codes)), high = vmovl_s8(vget_high_s8(codes));
  return (vi){vmovl_s16(vget_low_s16(low)), vmovl_s16(vget_high_s16(low)), vmovl_s16(vget_low_s16(high)),
              vmovl_s16(vget_high_s16(high))};
}
EDGE_INLINE vf vf_times_pow2(vf x, vf n) { return vf_mul(x, vi_pow2(vf_to_int(n))); }
EDGE_INLINE vi vf_to_int_or_zero(vf x) { return vf_to_int(x); } /* FCVTNS makes 0 of NaN */
EDGE_INLINE int8x16_t sixteen_codes(vi x) {
  const int16x8_t low = vcombine_s16(vmovn_s32(x.a), vmovn_s32(x.b)), high = vcombine_s16(vmovn_s32(x.c), vmovn_s32(x.d));
  return vcombine_s8(vmovn_s16(low), vmovn_s16(high));
}
EDGE_INLINE void vi_store_codes(int8_t *p, vi x) { vst1q_s8(p, sixteen_codes(x)); }
EDGE_INLINE int32x4_t store_16_codes(int8_t *p, vf x) {
  const int8x16_t codes = sixteen_codes(vf_to_int(x)); /* FCVTNS makes 0 of NaN */
  vst1q_s8(p, codes);
  return vpaddlq_s16(vpaddlq_s8(codes));
}
EDGE_INLINE vi vf_store_64_codes(int8_t *p, vf a, vf b, vf c, vf d) {
  return (vi){store_16_codes(p, a), store_16_codes(p + 16, b), store_16_codes(p + 32, c), store_16_codes(p + 48, d)};
}
EDGE_INLINE void vi_store_quads(int8_t *p, vi a, vi b, vi c, vi d) {
  const int8x16x4_t codes = {{sixteen_codes(a), sixteen_codes(b), sixteen_codes(c), sixteen_codes(d)}};
  vst4q_s8(p, codes); /* a macro where clang is: braces with commas would be several arguments */
}

EDGE_INLINE vs vs_set(int16_t x) {
  const int16x8_t eight = vdupq_n_s16(x);
  return (vs){eight, eight, eight, eight};
}
EDGE_INLINE vs vs_load(const int16_t *p) {
  return (vs){vld1q_s16(p), vld1q_s16(p + 8), vld1q_s16(p + 16), vld1q_s16(p + 24)};
}
EDGE_INLINE void vs_store(int16_t *p, vs x) {
  vst1q_s16(p, x.a);
  vst1q_s16(p + 8, x.b);
  vst1q_s16(p + 16, x.c);
  vst1q_s16(p + 24, x.d);
}
EDGE_INLINE vs vs_four_bytes(const void *p) {
  int32_t four;
  memcpy(&four, p, sizeof four);
  const int16x8_t eight = vreinterpretq_s16_s32(vdupq_n_s32(four));
  return (vs){eight, eight, eight, eight};
}
EDGE_INLINE vs vs_add(vs x, vs y) { return EDGE_EACH_2(vs, vaddq_s16, x, y); }
EDGE_INLINE vs vs_and(vs x, vs y) { return EDGE_EACH_2(vs, vandq_s16, x, y); }
EDGE_INLINE vs vs_mul(vs x, vs y) { return EDGE_EACH_2(vs, vqrdmulhq_s16, x, y); }
EDGE_INLINE vs vs_left(vs x, const int n) {
  const int16x8_t by = vdupq_n_s16((int16_t)n);
  return (vs){vshlq_s16(x.a, by), vshlq_s16(x.b, by), vshlq_s16(x.c, by), vshlq_s16(x.d, by)};
}
EDGE_INLINE int16x8_t edge_rightq(int16x8_t x, const int n) {
  return vreinterpretq_s16_u16(vshlq_u16(vreinterpretq_u16_s16(x), vdupq_n_s16((int16_t)-n)));
}
EDGE_INLINE vs vs_right(vs x, const int n) {
  return (vs){edge_rightq(x.a, n), edge_rightq(x.b, n), edge_rightq(x.c, n), edge_rightq(x.d, n)};
}
/* Not by more: the complement of n is -(n + 1). */
EDGE_INLINE vs vs_halved(vs x, vs n) {
  return (vs){vrshlq_s16(x.a, vmvnq_s16(n.a)), vrshlq_s16(x.b, vmvnq_s16(n.b)), vrshlq_s16(x.c, vmvnq_s16(n.c)),
              vrshlq_s16(x.d, vmvnq_s16(n.d))};
}
EDGE_INLINE int16x8_t edge_narrowq(int32x4_t x, int32x4_t y) { return vcombine_s16(vmovn_s32(x), vmovn_s32(y)); }
EDGE_INLINE vs vi_narrow(vi x, vi y) {
  return (vs){edge_narrowq(x.a, x.b), edge_narrowq(x.c, x.d), edge_narrowq(y.a, y.b), edge_narrowq(y.c, y.d)};
}
EDGE_INLINE void vi_store_twos(int16_t *p, vi x, vi y) { vs_store(p, vi_narrow(x, y)); }
EDGE_INLINE vs vs_load_codes(const int8_t *p) {
  const int8x16_t low = vld1q_s8(p), high = vld1q_s8(p + 16);
  return (vs){vmovl_s8(vget_low_s8(low)), vmovl_s8(vget_high_s8(low)), vmovl_s8(vget_low_s8(high)),
              vmovl_s8(vget_high_s8(high))};
}
EDGE_INLINE void vs_store_codes(int8_t *p, vs x) {
  vst1q_s8(p, vcombine_s8(vmovn_s16(x.a), vmovn_s16(x.b)));
  vst1q_s8(p + 16, vcombine_s8(vmovn_s16(x.c), vmovn_s16(x.d)));
}
EDGE_INLINE vs vf_as_quads(vf x) { return EDGE_EACH_1(vs, vreinterpretq_s16_f32, x); }
EDGE_INLINE vs vf_as_twos(vf x) { /* the first of each two before the second */
  const vs twos = vf_as_quads(x);
  return (vs){vuzp1q_s16(twos.a, twos.b), vuzp1q_s16(twos.c, twos.d), vuzp2q_s16(twos.a, twos.b),
              vuzp2q_s16(twos.c, twos.d)};
}
EDGE_INLINE vi vi_add_twos(vi sum, vs x, vs two) {
  const int16x4_t pair = vget_low_s16(two.a);
  sum.a = vmlal_lane_s16(vmlal_lane_s16(sum.a, vget_low_s16(x.a), pair, 0), vget_low_s16(x.c), pair, 1);
  sum.b = vmlal_lane_s16(vmlal_lane_s16(sum.b, vget_high_s16(x.a), pair, 0), vget_high_s16(x.c), pair, 1);
  sum.c = vmlal_lane_s16(vmlal_lane_s16(sum.c, vget_low_s16(x.b), pair, 0), vget_low_s16(x.d), pair, 1);
  sum.d = vmlal_lane_s16(vmlal_lane_s16(sum.d, vget_high_s16(x.b), pair, 0), vget_high_s16(x.d), pair, 1);
  return sum;
}

EDGE_INLINE void vf_store_block(int8_t *p, const vf x[EDGE_BLOCK], int offset) {
  vst1q_s8(p, vaddq_s8(sixteen_codes(vf_to_int(x[0])), vdupq_n_s8((int8_t)offset))); /* FCVTNS makes 0 of NaN */
}
EDGE_INLINE vi vi_quads(const int8_t *const row[4], size_t at, const size_t i) {
  (void)i;
  const int8x16_t a = vld1q_s8(row[0] + at), b = vld1q_s8(row[1] + at);
  const int8x16_t c = vld1q_s8(row[2] + at), d = vld1q_s8(row[3] + at);
  const int16x8_t ab[2] = {vreinterpretq_s16_s8(vzip1q_s8(a, b)), vreinterpretq_s16_s8(vzip2q_s8(a, b))};
  const int16x8_t cd[2] = {vreinterpretq_s16_s8(vzip1q_s8(c, d)), vreinterpretq_s16_s8(vzip2q_s8(c, d))};
  return (vi){
      vreinterpretq_s32_s16(vzip1q_s16(ab[0], cd[0])), vreinterpretq_s32_s16(vzip2q_s16(ab[0], cd[0])),
      vreinterpretq_s32_s16(vzip1q_s16(ab[1], cd[1])), vreinterpretq_s32_s16(vzip2q_s16(ab[1], cd[1]))};
}

#endif
