/* Sixteen lanes in one AVX-512 register: what kernels/simd is written over. See simd/README.md for the names. */
#ifndef EDGE_VECTOR_AVX512VNNI_H
#define EDGE_VECTOR_AVX512VNNI_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/simd/target.h"

#define EDGE_SIMD(name) name##__avx512vnni
#define EDGE_AVX512VNNI "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni"

/* Rows and vectors of a float tile. Two vectors a row would be slower: its additions then wait for each other's pipe. */
#define EDGE_TILE_ROWS 12
#define EDGE_TILE_VECTORS 1
/* Vectors whose codes fill a register. */
#define EDGE_BLOCK 4

typedef __m512 vf;
typedef __m512i vi, vs;
typedef __mmask16 vm;

EDGE_TARGET_BEGIN(EDGE_AVX512VNNI)

EDGE_INLINE vm vm_first(size_t n) { return (vm)((1u << n) - 1u); }
EDGE_INLINE vm vm_either(vm a, vm b) { return (vm)(a | b); }

EDGE_INLINE vf vf_set(float x) { return _mm512_set1_ps(x); }
EDGE_INLINE vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
EDGE_INLINE vf vf_load_first(const float *p, size_t n) { return _mm512_maskz_loadu_ps(vm_first(n), p); }
EDGE_INLINE void vf_store(float *p, vf x) { _mm512_storeu_ps(p, x); }
EDGE_INLINE void vf_store_first(float *p, vf x, size_t n) { _mm512_mask_storeu_ps(p, vm_first(n), x); }
EDGE_INLINE vf vf_first(vf x, size_t n) { return _mm512_maskz_mov_ps(vm_first(n), x); }
EDGE_INLINE vf vf_add(vf a, vf b) { return _mm512_add_ps(a, b); }
EDGE_INLINE vf vf_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
EDGE_INLINE vf vf_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
EDGE_INLINE vf vf_div(vf a, vf b) { return _mm512_div_ps(a, b); }
EDGE_INLINE vf vf_sqrt(vf a) { return _mm512_sqrt_ps(a); }
EDGE_INLINE vf vf_abs(vf a) { return _mm512_andnot_ps(_mm512_set1_ps(-0.0f), a); }
EDGE_INLINE vf vf_neg(vf a) { return _mm512_xor_ps(_mm512_set1_ps(-0.0f), a); }
EDGE_INLINE vf vf_rint(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_CUR_DIRECTION | _MM_FROUND_NO_EXC); }
EDGE_INLINE vf vf_larger(vf a, vf b) { return _mm512_max_ps(a, b); }
EDGE_INLINE vf vf_smaller(vf a, vf b) { return _mm512_min_ps(a, b); }
EDGE_INLINE vf vf_times_pow2(vf a, vf n) { return _mm512_scalef_ps(a, n); }
EDGE_INLINE vm vf_less(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
EDGE_INLINE vm vf_nan(vf a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }
EDGE_INLINE vf vf_select(vm m, vf yes, vf no) { return _mm512_mask_blend_ps(m, no, yes); }

EDGE_INLINE float vf_fold(vf x) {
  __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}
EDGE_INLINE float vf_largest(vf x) { return _mm512_reduce_max_ps(x); }

/* t[i] lane j becomes t[j] lane i. */
EDGE_INLINE void vf_turn(vf t[16]) {
  vf u[16];
  EDGE_UNROLL
  for (int i = 0; i < 16; i += 2) {
    u[i] = _mm512_unpacklo_ps(t[i], t[i + 1]);
    u[i + 1] = _mm512_unpackhi_ps(t[i], t[i + 1]);
  }
  EDGE_UNROLL
  for (int i = 0; i < 16; i += 4) { /* t[i + j]: column j of each 4 x 4 block of rows i .. i + 3 */
    t[i] = _mm512_shuffle_ps(u[i], u[i + 2], 0x44);
    t[i + 1] = _mm512_shuffle_ps(u[i], u[i + 2], 0xEE);
    t[i + 2] = _mm512_shuffle_ps(u[i + 1], u[i + 3], 0x44);
    t[i + 3] = _mm512_shuffle_ps(u[i + 1], u[i + 3], 0xEE);
  }
  EDGE_UNROLL
  for (int j = 0; j < 4; ++j) {
    const vf even = _mm512_shuffle_f32x4(t[j], t[4 + j], 0x88), odd = _mm512_shuffle_f32x4(t[j], t[4 + j], 0xDD);
    const vf even2 = _mm512_shuffle_f32x4(t[8 + j], t[12 + j], 0x88);
    const vf odd2 = _mm512_shuffle_f32x4(t[8 + j], t[12 + j], 0xDD);
    u[j] = _mm512_shuffle_f32x4(even, even2, 0x88);
    u[4 + j] = _mm512_shuffle_f32x4(odd, odd2, 0x88);
    u[8 + j] = _mm512_shuffle_f32x4(even, even2, 0xDD);
    u[12 + j] = _mm512_shuffle_f32x4(odd, odd2, 0xDD);
  }
  EDGE_UNROLL
  for (int i = 0; i < 16; ++i) t[i] = u[i];
}

/* Folded to eight lanes of eight vectors first: half as much to turn. */
#define EDGE_EACH_OF_SIXTEEN(name, operation)                                                                       \
  EDGE_INLINE vf name(const vf t[16]) {                                                                             \
    __m512 u[8];                                                                                                    \
    EDGE_UNROLL                                                                                                     \
    for (int i = 0; i < 8; ++i) { /* lanes 0-7 of vector i, then of vector i + 8, each folded onto */               \
      u[i] = operation(_mm512_shuffle_f32x4(t[i], t[i + 8], 0x44), _mm512_shuffle_f32x4(t[i], t[i + 8], 0xEE));     \
    }                                                                                                               \
    __m512 v[4];                                                                                                    \
    EDGE_UNROLL                                                                                                     \
    for (int i = 0; i < 4; ++i) { /* lanes 0-3 of i, i + 4, i + 8, i + 12 */                                        \
      const __m512 low = _mm512_shuffle_f32x4(u[i], u[i + 4], 0x88), high = _mm512_shuffle_f32x4(u[i], u[i + 4], 0xDD); \
      v[i] = operation(low, high);                                                                                  \
    }                                                                                                               \
    const __m512 a = operation(_mm512_shuffle_ps(v[0], v[1], 0x44), _mm512_shuffle_ps(v[0], v[1], 0xEE));           \
    const __m512 b = operation(_mm512_shuffle_ps(v[2], v[3], 0x44), _mm512_shuffle_ps(v[2], v[3], 0xEE));           \
    const __m512 each = operation(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xDD));                    \
    /* The shuffles left the vectors 4-7 behind 8-11. */                                                            \
    return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15), each);    \
  }
EDGE_EACH_OF_SIXTEEN(vf_fold_each, _mm512_add_ps)
EDGE_EACH_OF_SIXTEEN(vf_largest_each, _mm512_max_ps)
#undef EDGE_EACH_OF_SIXTEEN

EDGE_INLINE vi vi_set(int32_t x) { return _mm512_set1_epi32(x); }
EDGE_INLINE vi vi_load(const int32_t *p) { return _mm512_loadu_si512(p); }
EDGE_INLINE void vi_store(int32_t *p, vi x) { _mm512_storeu_si512(p, x); }
EDGE_INLINE vi vi_add(vi a, vi b) { return _mm512_add_epi32(a, b); }
EDGE_INLINE vi vi_sub(vi a, vi b) { return _mm512_sub_epi32(a, b); }
EDGE_INLINE vi vi_mul(vi a, vi b) { return _mm512_mullo_epi32(a, b); }
EDGE_INLINE vi vi_half(vi a) { return _mm512_srai_epi32(a, 1); }
EDGE_INLINE int32_t vi_fold(vi x) { return _mm512_reduce_add_epi32(x); }
EDGE_INLINE vf vi_to_float(vi x) { return _mm512_cvtepi32_ps(x); }
EDGE_INLINE vi vf_to_int(vf x) { return _mm512_cvtps_epi32(x); }
EDGE_INLINE vi vf_to_int_or_zero(vf x) { return _mm512_maskz_cvtps_epi32(_mm512_cmp_ps_mask(x, x, _CMP_ORD_Q), x); }
EDGE_INLINE vf vi_pow2(vi n) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23));
}
EDGE_INLINE vi vi_load_codes(const int8_t *p) { return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)); }
/* Of each lane the four codes, side by side. */
EDGE_INLINE void vi_store_quads(int8_t *p, vi a, vi b, vi c, vi d) {
  const __m128i first = _mm512_cvtepi32_epi8(a), second = _mm512_cvtepi32_epi8(b);
  const __m128i third = _mm512_cvtepi32_epi8(c), fourth = _mm512_cvtepi32_epi8(d);
  const __m128i ab[2] = {_mm_unpacklo_epi8(first, second), _mm_unpackhi_epi8(first, second)};
  const __m128i cd[2] = {_mm_unpacklo_epi8(third, fourth), _mm_unpackhi_epi8(third, fourth)};
  for (int i = 0; i < 2; ++i) {
    _mm_storeu_si128((__m128i *)(p + 32 * i), _mm_unpacklo_epi16(ab[i], cd[i]));
    _mm_storeu_si128((__m128i *)(p + 32 * i + 16), _mm_unpackhi_epi16(ab[i], cd[i]));
  }
}
EDGE_INLINE void vi_store_codes(int8_t *p, vi x) { _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(x)); }
EDGE_INLINE vi vf_store_64_codes(int8_t *p, vf a, vf b, vf c, vf d) {
  /* Packing goes by quarters of a register: each of them holds a quad of every factor. */
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m512i ab = _mm512_packs_epi32(_mm512_cvtps_epi32(a), _mm512_cvtps_epi32(b));
  const __m512i cd = _mm512_packs_epi32(_mm512_cvtps_epi32(c), _mm512_cvtps_epi32(d));
  const __m512i quads = _mm512_packs_epi16(ab, cd);
  const __mmask64 known = _mm512_cmpneq_epi8_mask(quads, _mm512_set1_epi8(-128)); /* NaN saturates; no code is that */
  const __m512i codes = _mm512_permutexvar_epi32(order, _mm512_maskz_mov_epi8(known, quads));
  _mm512_storeu_si512(p, codes);
  return _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), codes);
}

EDGE_INLINE vs vs_set(int16_t x) { return _mm512_set1_epi16(x); }
EDGE_INLINE vs vs_load(const int16_t *p) { return _mm512_loadu_si512(p); }
EDGE_INLINE void vs_store(int16_t *p, vs x) { _mm512_storeu_si512(p, x); }
EDGE_INLINE vs vs_four_bytes(const void *p) {
  int32_t four;
  memcpy(&four, p, sizeof four);
  return _mm512_set1_epi32(four);
}
EDGE_INLINE vs vs_add(vs a, vs b) { return _mm512_add_epi16(a, b); }
EDGE_INLINE vs vs_and(vs a, vs b) { return _mm512_and_si512(a, b); }
#define vs_left(a, n) _mm512_slli_epi16(a, n) /* macros: the number is an immediate */
#define vs_right(a, n) _mm512_srli_epi16(a, n)
EDGE_INLINE vs vs_mul(vs a, vs b) { return _mm512_mulhrs_epi16(a, b); }
EDGE_INLINE vs vs_halved(vs a, vs n) {
  const __m256i pow2 = _mm256_set_epi16(0, 1, 1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 5, 1 << 6, 1 << 7, 1 << 8, 1 << 9,
                                        1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14);
  return _mm512_mulhrs_epi16(a, _mm512_permutexvar_epi16(n, _mm512_castsi256_si512(pow2)));
}
EDGE_INLINE vs vi_narrow(vi a, vi b) {
  const __m512i order = _mm512_set_epi64(7, 5, 3, 1, 6, 4, 2, 0);
  return _mm512_permutexvar_epi64(order, _mm512_packus_epi32(a, b));
}
EDGE_INLINE void vi_store_twos(int16_t *p, vi a, vi b) {
  _mm512_storeu_si512(p, _mm512_mask_blend_epi16(0xAAAAAAAA, a, _mm512_slli_epi32(b, 16)));
}
EDGE_INLINE vs vf_as_quads(vf x) { return _mm512_castps_si512(x); }
EDGE_INLINE vi vi_add_twos(vi sum, vs a, vs two) { return _mm512_dpwssd_epi32(sum, a, two); }
/* The four are made unsigned: plus 128, modulo 256. */
EDGE_INLINE vi vi_add_quads(vi sum, vs a, vs four) {
  return _mm512_dpbusd_epi32(sum, _mm512_xor_si512(four, _mm512_set1_epi8((char)128)), a);
}

/* Codes lie as saturating packs leave them: four of each vector in each 128 bits. Unpacking sets them in order. */
EDGE_INLINE void vf_store_block(int8_t *p, const vf x[EDGE_BLOCK], int offset) {
  const __m512i ab = _mm512_packs_epi32(_mm512_cvtps_epi32(x[0]), _mm512_cvtps_epi32(x[1]));
  const __m512i cd = _mm512_packs_epi32(_mm512_cvtps_epi32(x[2]), _mm512_cvtps_epi32(x[3]));
  const __m512i codes = _mm512_packs_epi16(ab, cd), nan = _mm512_set1_epi8(-128); /* saturated; no code is that */
  const __m512i offsets = _mm512_set1_epi8((char)offset);
  _mm512_storeu_si512(p, _mm512_mask_mov_epi8(offsets, _mm512_cmpneq_epi8_mask(codes, nan),
                                              _mm512_add_epi8(codes, offsets)));
}
EDGE_INLINE vi vi_quads(const int8_t *const row[4], size_t at, const size_t i) {
  const __m512i a = _mm512_loadu_si512(row[0] + at), b = _mm512_loadu_si512(row[1] + at);
  const __m512i c = _mm512_loadu_si512(row[2] + at), d = _mm512_loadu_si512(row[3] + at);
  const __m512i ab = i < 2 ? _mm512_unpacklo_epi8(a, b) : _mm512_unpackhi_epi8(a, b);
  const __m512i cd = i < 2 ? _mm512_unpacklo_epi8(c, d) : _mm512_unpackhi_epi8(c, d);
  return i % 2 == 0 ? _mm512_unpacklo_epi16(ab, cd) : _mm512_unpackhi_epi16(ab, cd);
}

EDGE_TARGET_END
#endif
