/* Sixteen lanes in two AVX2 registers: what kernels/simd is written over. See simd/README.md for the names. */
#ifndef EDGE_VECTOR_AVX2_H
#define EDGE_VECTOR_AVX2_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/simd/target.h"

#define EDGE_SIMD(name) name##__avx2
#define EDGE_AVX2 "avx2"

/* Rows and vectors of a float tile: 12 of the 16 registers hold sums. */
#define EDGE_TILE_ROWS 6
#define EDGE_TILE_VECTORS 1
/* Vectors whose codes fill a register. */
#define EDGE_BLOCK 2

typedef struct vf {
  __m256 lo, hi;
} vf;
typedef struct vi {
  __m256i lo, hi;
} vi, vs;
typedef struct vm {
  __m256 lo, hi;
} vm;

EDGE_TARGET_BEGIN(EDGE_AVX2)

#define EDGE_EACH(name, operation) \
  EDGE_INLINE vf name(vf a, vf b) { return (vf){operation(a.lo, b.lo), operation(a.hi, b.hi)}; }
EDGE_EACH(vf_add, _mm256_add_ps)
EDGE_EACH(vf_sub, _mm256_sub_ps)
EDGE_EACH(vf_mul, _mm256_mul_ps)
EDGE_EACH(vf_div, _mm256_div_ps)
EDGE_EACH(vf_larger, _mm256_max_ps)
EDGE_EACH(vf_smaller, _mm256_min_ps)
#undef EDGE_EACH

/* n all-ones words, then zeros, from a table read at an offset. */
EDGE_INLINE __m256i eight_first(size_t n) {
  static const int32_t words[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
  return _mm256_loadu_si256((const __m256i *)(words + 8 - (n < 8 ? n : 8)));
}
EDGE_INLINE vm vm_first(size_t n) {
  return (vm){_mm256_castsi256_ps(eight_first(n)), _mm256_castsi256_ps(eight_first(n > 8 ? n - 8 : 0))};
}
EDGE_INLINE vm vm_either(vm a, vm b) { return (vm){_mm256_or_ps(a.lo, b.lo), _mm256_or_ps(a.hi, b.hi)}; }

EDGE_INLINE vf vf_set(float x) { return (vf){_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
EDGE_INLINE vf vf_load(const float *p) { return (vf){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
EDGE_INLINE void vf_store(float *p, vf x) {
  _mm256_storeu_ps(p, x.lo);
  _mm256_storeu_ps(p + 8, x.hi);
}
EDGE_INLINE vf vf_load_first(const float *p, size_t n) {
  if (n == 16) return vf_load(p);
  const vf x = {_mm256_maskload_ps(p, eight_first(n)), _mm256_setzero_ps()};
  return n > 8 ? (vf){x.lo, _mm256_maskload_ps(p + 8, eight_first(n - 8))} : x;
}
EDGE_INLINE void vf_store_first(float *p, vf x, size_t n) {
  if (n == 16) {
    vf_store(p, x);
    return;
  }
  _mm256_maskstore_ps(p, eight_first(n), x.lo);
  if (n > 8) _mm256_maskstore_ps(p + 8, eight_first(n - 8), x.hi);
}
EDGE_INLINE vf vf_first(vf x, size_t n) {
  const vm m = vm_first(n);
  return (vf){_mm256_and_ps(x.lo, m.lo), _mm256_and_ps(x.hi, m.hi)};
}
EDGE_INLINE vf vf_sqrt(vf a) { return (vf){_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)}; }
EDGE_INLINE vf vf_abs(vf a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return (vf){_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
}
EDGE_INLINE vf vf_neg(vf a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return (vf){_mm256_xor_ps(sign, a.lo), _mm256_xor_ps(sign, a.hi)};
}
EDGE_INLINE vf vf_rint(vf a) {
  return (vf){_mm256_round_ps(a.lo, _MM_FROUND_CUR_DIRECTION | _MM_FROUND_NO_EXC),
              _mm256_round_ps(a.hi, _MM_FROUND_CUR_DIRECTION | _MM_FROUND_NO_EXC)};
}
EDGE_INLINE vm vf_less(vf a, vf b) {
  return (vm){_mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ)};
}
EDGE_INLINE vm vf_nan(vf a) {
  return (vm){_mm256_cmp_ps(a.lo, a.lo, _CMP_UNORD_Q), _mm256_cmp_ps(a.hi, a.hi, _CMP_UNORD_Q)};
}
EDGE_INLINE vf vf_select(vm m, vf yes, vf no) {
  return (vf){_mm256_blendv_ps(no.lo, yes.lo, m.lo), _mm256_blendv_ps(no.hi, yes.hi, m.hi)};
}
EDGE_INLINE float vf_fold(vf x) {
  const __m256 eight = _mm256_add_ps(x.lo, x.hi);
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}
EDGE_INLINE float vf_largest(vf x) {
  const __m256 eight = _mm256_max_ps(x.lo, x.hi);
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

/* Transposes eight vectors of eight. */
EDGE_INLINE void turn_eight(__m256 t[8]) {
  __m256 u[8];
  EDGE_UNROLL
  for (int i = 0; i < 8; i += 2) {
    u[i] = _mm256_unpacklo_ps(t[i], t[i + 1]);
    u[i + 1] = _mm256_unpackhi_ps(t[i], t[i + 1]);
  }
  EDGE_UNROLL
  for (int i = 0; i < 8; i += 4) {
    t[i] = _mm256_shuffle_ps(u[i], u[i + 2], 0x44);
    t[i + 1] = _mm256_shuffle_ps(u[i], u[i + 2], 0xEE);
    t[i + 2] = _mm256_shuffle_ps(u[i + 1], u[i + 3], 0x44);
    t[i + 3] = _mm256_shuffle_ps(u[i + 1], u[i + 3], 0xEE);
  }
  EDGE_UNROLL
  for (int i = 0; i < 4; ++i) {
    u[i] = _mm256_permute2f128_ps(t[i], t[i + 4], 0x20);
    u[i + 4] = _mm256_permute2f128_ps(t[i], t[i + 4], 0x31);
  }
  EDGE_UNROLL
  for (int i = 0; i < 8; ++i) t[i] = u[i];
}

/* t[i] lane j becomes t[j] lane i. */
EDGE_INLINE void vf_turn(vf t[16]) {
  __m256 block[4][8]; /* low and high lanes of the first eight, then of the last */
  EDGE_UNROLL
  for (int i = 0; i < 8; ++i) {
    block[0][i] = t[i].lo;
    block[1][i] = t[i].hi;
    block[2][i] = t[8 + i].lo;
    block[3][i] = t[8 + i].hi;
  }
  EDGE_UNROLL
  for (int b = 0; b < 4; ++b) turn_eight(block[b]);
  EDGE_UNROLL
  for (int i = 0; i < 8; ++i) {
    t[i] = (vf){block[0][i], block[2][i]};
    t[8 + i] = (vf){block[1][i], block[3][i]};
  }
}

/* Folded to eight lanes first: half as much to turn. */
#define EDGE_EACH_OF_EIGHT(name, operation)                                                \
  EDGE_INLINE __m256 name##_of_eight(const vf t[8]) {                                      \
    __m256 u[8];                                                                           \
    EDGE_UNROLL                                                                            \
    for (int i = 0; i < 8; ++i) u[i] = operation(t[i].lo, t[i].hi);                        \
    turn_eight(u);                                                                         \
    EDGE_UNROLL                                                                            \
    for (int i = 0; i < 4; ++i) u[i] = operation(u[i], u[i + 4]);                          \
    return operation(operation(u[0], u[2]), operation(u[1], u[3]));                        \
  }                                                                                        \
  EDGE_INLINE vf name(const vf t[16]) { return (vf){name##_of_eight(t), name##_of_eight(t + 8)}; }
EDGE_EACH_OF_EIGHT(vf_fold_each, _mm256_add_ps)
EDGE_EACH_OF_EIGHT(vf_largest_each, _mm256_max_ps)
#undef EDGE_EACH_OF_EIGHT

#define EDGE_EACH(name, operation) \
  EDGE_INLINE vi name(vi a, vi b) { return (vi){operation(a.lo, b.lo), operation(a.hi, b.hi)}; }
EDGE_EACH(vi_add, _mm256_add_epi32)
EDGE_EACH(vi_sub, _mm256_sub_epi32)
EDGE_EACH(vi_mul, _mm256_mullo_epi32)
#undef EDGE_EACH

EDGE_INLINE vi vi_set(int32_t x) { return (vi){_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
EDGE_INLINE vi vi_load(const int32_t *p) {
  return (vi){_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)(p + 8))};
}
EDGE_INLINE void vi_store(int32_t *p, vi x) {
  _mm256_storeu_si256((__m256i *)p, x.lo);
  _mm256_storeu_si256((__m256i *)(p + 8), x.hi);
}
EDGE_INLINE vi vi_half(vi a) { return (vi){_mm256_srai_epi32(a.lo, 1), _mm256_srai_epi32(a.hi, 1)}; }
EDGE_INLINE int32_t vi_fold(vi x) {
  const __m256i eight = _mm256_add_epi32(x.lo, x.hi);
  __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  four = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
  return _mm_cvtsi128_si32(_mm_add_epi32(four, _mm_shuffle_epi32(four, 1)));
}
EDGE_INLINE vf vi_to_float(vi x) { return (vf){_mm256_cvtepi32_ps(x.lo), _mm256_cvtepi32_ps(x.hi)}; }
EDGE_INLINE vi vf_to_int(vf x) { return (vi){_mm256_cvtps_epi32(x.lo), _mm256_cvtps_epi32(x.hi)}; }
EDGE_INLINE vf vi_pow2(vi n) {
  const vi bits = vi_add(n, vi_set(127));
  return (vf){_mm256_castsi256_ps(_mm256_slli_epi32(bits.lo, 23)), _mm256_castsi256_ps(_mm256_slli_epi32(bits.hi, 23))};
}
EDGE_INLINE vi vf_to_int_or_zero(vf x) {
  const __m256 lo = _mm256_and_ps(x.lo, _mm256_cmp_ps(x.lo, x.lo, _CMP_ORD_Q));
  const __m256 hi = _mm256_and_ps(x.hi, _mm256_cmp_ps(x.hi, x.hi, _CMP_ORD_Q));
  return (vi){_mm256_cvtps_epi32(lo), _mm256_cvtps_epi32(hi)};
}
EDGE_INLINE vf vf_times_pow2(vf a, vf n) { return vf_mul(a, vi_pow2(vf_to_int(n))); }
EDGE_INLINE vi vi_load_codes(const int8_t *p) {
  const __m128i codes = _mm_loadu_si128((const __m128i *)p);
  return (vi){_mm256_cvtepi8_epi32(codes), _mm256_cvtepi8_epi32(_mm_unpackhi_epi64(codes, codes))};
}
EDGE_INLINE __m128i sixteen_codes(vi x) {
  const __m256i words = _mm256_packs_epi32(x.lo, x.hi); /* 0-3, 8-11, 4-7, 12-15 */
  const __m256i ordered = _mm256_permute4x64_epi64(words, 0xD8);
  return _mm_packs_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
}
EDGE_INLINE void vi_store_codes(int8_t *p, vi x) { _mm_storeu_si128((__m128i *)p, sixteen_codes(x)); }
/* Stores 32 codes; returns their sums, eight lanes. */
EDGE_INLINE __m256i store_32_codes(int8_t *p, vf a, vf b) {
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i first = _mm256_packs_epi32(_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi));
  const __m256i second = _mm256_packs_epi32(_mm256_cvtps_epi32(b.lo), _mm256_cvtps_epi32(b.hi));
  const __m256i quads = _mm256_packs_epi16(first, second);
  const __m256i nan = _mm256_cmpeq_epi8(quads, _mm256_set1_epi8(-128)); /* saturated; no code is that */
  const __m256i codes = _mm256_permutevar8x32_epi32(_mm256_andnot_si256(nan, quads), order);
  _mm256_storeu_si256((__m256i *)p, codes);
  return _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), codes), _mm256_set1_epi16(1));
}
EDGE_INLINE vi vf_store_64_codes(int8_t *p, vf a, vf b, vf c, vf d) {
  return (vi){store_32_codes(p, a, b), store_32_codes(p + 32, c, d)};
}
EDGE_INLINE void vi_store_quads(int8_t *p, vi a, vi b, vi c, vi d) {
  const __m128i first = sixteen_codes(a), second = sixteen_codes(b), third = sixteen_codes(c);
  const __m128i fourth = sixteen_codes(d);
  const __m128i ab[2] = {_mm_unpacklo_epi8(first, second), _mm_unpackhi_epi8(first, second)};
  const __m128i cd[2] = {_mm_unpacklo_epi8(third, fourth), _mm_unpackhi_epi8(third, fourth)};
  for (int i = 0; i < 2; ++i) {
    _mm_storeu_si128((__m128i *)(p + 32 * i), _mm_unpacklo_epi16(ab[i], cd[i]));
    _mm_storeu_si128((__m128i *)(p + 32 * i + 16), _mm_unpackhi_epi16(ab[i], cd[i]));
  }
}

#define EDGE_EACH(name, operation) \
  EDGE_INLINE vs name(vs a, vs b) { return (vs){operation(a.lo, b.lo), operation(a.hi, b.hi)}; }
EDGE_EACH(vs_add, _mm256_add_epi16)
EDGE_EACH(vs_and, _mm256_and_si256)
EDGE_EACH(vs_mul, _mm256_mulhrs_epi16)
#undef EDGE_EACH

EDGE_INLINE vs vs_set(int16_t x) { return (vs){_mm256_set1_epi16(x), _mm256_set1_epi16(x)}; }
EDGE_INLINE vs vs_load(const int16_t *p) {
  return (vs){_mm256_loadu_si256((const __m256i *)p), _mm256_loadu_si256((const __m256i *)(p + 16))};
}
EDGE_INLINE void vs_store(int16_t *p, vs x) {
  _mm256_storeu_si256((__m256i *)p, x.lo);
  _mm256_storeu_si256((__m256i *)(p + 16), x.hi);
}
EDGE_INLINE vs vs_four_bytes(const void *p) {
  int32_t four;
  memcpy(&four, p, sizeof four);
  return (vs){_mm256_set1_epi32(four), _mm256_set1_epi32(four)};
}
EDGE_INLINE vs vs_left(vs a, const int n) { return (vs){_mm256_slli_epi16(a.lo, n), _mm256_slli_epi16(a.hi, n)}; }
EDGE_INLINE vs vs_right(vs a, const int n) { return (vs){_mm256_srli_epi16(a.lo, n), _mm256_srli_epi16(a.hi, n)}; }
/* 2^(14 - n), a byte at a time from a table: of n at the high byte's place, of n + 8 modulo 16 at the low one's. */
EDGE_INLINE __m256i pow2_below_15(__m256i n) {
  const __m256i table = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(64, 32, 16, 8, 4, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, (char)128));
  const __m256i twice = _mm256_or_si256(n, _mm256_slli_epi16(n, 8));
  return _mm256_shuffle_epi8(table, _mm256_xor_si256(twice, _mm256_set1_epi16(8)));
}
EDGE_INLINE vs vs_halved(vs a, vs n) {
  return (vs){_mm256_mulhrs_epi16(a.lo, pow2_below_15(n.lo)), _mm256_mulhrs_epi16(a.hi, pow2_below_15(n.hi))};
}
EDGE_INLINE vs vi_narrow(vi a, vi b) {
  return (vs){_mm256_permute4x64_epi64(_mm256_packus_epi32(a.lo, a.hi), 0xD8),
              _mm256_permute4x64_epi64(_mm256_packus_epi32(b.lo, b.hi), 0xD8)};
}
EDGE_INLINE void vi_store_twos(int16_t *p, vi a, vi b) {
  vs_store(p, (vs){_mm256_blend_epi16(a.lo, _mm256_slli_epi32(b.lo, 16), 0xAA),
                   _mm256_blend_epi16(a.hi, _mm256_slli_epi32(b.hi, 16), 0xAA)});
}
EDGE_INLINE vs vs_load_codes(const int8_t *p) {
  return (vs){_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)p)),
              _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(p + 16)))};
}
EDGE_INLINE vs vf_as_twos(vf x) { return (vs){_mm256_castps_si256(x.lo), _mm256_castps_si256(x.hi)}; }
EDGE_INLINE vi vi_add_twos(vi sum, vs a, vs two) {
  return (vi){_mm256_add_epi32(sum.lo, _mm256_madd_epi16(a.lo, two.lo)),
              _mm256_add_epi32(sum.hi, _mm256_madd_epi16(a.hi, two.hi))};
}

/* Codes lie as saturating packs leave them: four of each register in each 128 bits. Unpacking sets them in order. */
EDGE_INLINE void vf_store_block(int8_t *p, const vf x[EDGE_BLOCK], int offset) {
  const __m256i a = _mm256_packs_epi32(_mm256_cvtps_epi32(x[0].lo), _mm256_cvtps_epi32(x[0].hi));
  const __m256i b = _mm256_packs_epi32(_mm256_cvtps_epi32(x[1].lo), _mm256_cvtps_epi32(x[1].hi));
  const __m256i codes = _mm256_packs_epi16(a, b);
  const __m256i nan = _mm256_cmpeq_epi8(codes, _mm256_set1_epi8(-128)); /* saturated; no code is that */
  const __m256i known = _mm256_andnot_si256(nan, codes);
  _mm256_storeu_si256((__m256i *)p, _mm256_add_epi8(known, _mm256_set1_epi8((char)offset)));
}
EDGE_INLINE vi vi_quads(const int8_t *const row[4], size_t at, const size_t i) {
  const __m256i a = _mm256_loadu_si256((const __m256i *)(row[0] + at));
  const __m256i b = _mm256_loadu_si256((const __m256i *)(row[1] + at));
  const __m256i c = _mm256_loadu_si256((const __m256i *)(row[2] + at));
  const __m256i d = _mm256_loadu_si256((const __m256i *)(row[3] + at));
  const __m256i ab = i == 0 ? _mm256_unpacklo_epi8(a, b) : _mm256_unpackhi_epi8(a, b);
  const __m256i cd = i == 0 ? _mm256_unpacklo_epi8(c, d) : _mm256_unpackhi_epi8(c, d);
  return (vi){_mm256_unpacklo_epi16(ab, cd), _mm256_unpackhi_epi16(ab, cd)};
}

EDGE_TARGET_END
#endif
