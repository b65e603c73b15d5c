/* int8 activations times 2-bit weights with vpdpbusd; the contract is that of scalar/qd8_f32_qc2w_gemm.c.
 *
 * A quad of simd/qc2w_panels.h is one register. Four masked copies of it are the unsigned factors of four vpdpbusd, the
 * activations' quad, broadcast, is the signed one.
 *
 * With one row the masks are 0x03, 0x0F, 0x3F and none, which saves the shifts: each sum then holds those of the fields
 * below it too, times powers of 4, and they are taken off at the end.
 */
#include "kernels/avx512vnni/avx512vnni.h"

#if defined(__x86_64__)

#include "kernels/avx512vnni/vector__avx512vnni.h"
#include "kernels/scalar/scalar.h"
#include "kernels/simd/qc2w_panels.h"

/* Rows of a tile: 24 of the 32 registers hold sums. */
#define TILE_ROWS 6
/* 255 * 128 * k must stay below 2^31 for the sums of unmasked bytes. */
#define DEEPEST 65536

size_t edge_qd8_f32_qc2w_packed_bytes__avx512vnni(size_t n, size_t k) { return k <= DEEPEST ? panels_bytes(n, k) : 0; }

void edge_qd8_f32_qc2w_pack__avx512vnni(size_t n, size_t k, const uint8_t *weight, void *packed) {
  pack_panels(n, k, weight, packed);
}

EDGE_TARGET_BEGIN(EDGE_AVX512VNNI)

#include "kernels/simd/math.h"
/* which it uses */
#include "kernels/simd/finish.h"

EDGE_INLINE __m512i quad_at(const int8_t *codes) {
  int32_t four;
  memcpy(&four, codes, sizeof four);
  return _mm512_set1_epi32(four);
}

/* The sums of one row and the first 16 * groups outputs of a panel. */
EDGE_INLINE void row_tile(const size_t groups, size_t quads, const uint8_t *panel, const int8_t *codes, int32_t *sums) {
  const __m512i mask[3] = {_mm512_set1_epi8(0x03), _mm512_set1_epi8(0x0F), _mm512_set1_epi8(0x3F)};
  __m512i even[4], odd[4];
  EDGE_UNROLL
  for (size_t g = 0; g < 4; ++g) even[g] = odd[g] = _mm512_setzero_si512();
  size_t q = 0;
  for (; q + 2 <= quads; q += 2, panel += 2 * QUAD_BYTES, codes += 8) {
    _mm_prefetch((const char *)panel + 1024, _MM_HINT_T0);
    _mm_prefetch((const char *)panel + 1024 + QUAD_BYTES, _MM_HINT_T0);
    const __m512i w = _mm512_load_si512(panel), w2 = _mm512_load_si512(panel + QUAD_BYTES);
    const __m512i x = quad_at(codes), x2 = quad_at(codes + 4);
    EDGE_UNROLL
    for (size_t g = 0; g < groups; ++g) {
      even[g] = _mm512_dpbusd_epi32(even[g], g < 3 ? _mm512_and_si512(w, mask[g]) : w, x);
      odd[g] = _mm512_dpbusd_epi32(odd[g], g < 3 ? _mm512_and_si512(w2, mask[g]) : w2, x2);
    }
  }
  if (q < quads) {
    const __m512i w = _mm512_load_si512(panel), x = quad_at(codes);
    EDGE_UNROLL
    for (size_t g = 0; g < groups; ++g) {
      even[g] = _mm512_dpbusd_epi32(even[g], g < 3 ? _mm512_and_si512(w, mask[g]) : w, x);
    }
  }
  __m512i below = _mm512_setzero_si512();
  EDGE_UNROLL
  for (size_t g = 0; g < groups; ++g) {
    const __m512i all = _mm512_add_epi32(even[g], odd[g]);
    _mm512_storeu_si512(sums + 16 * g, _mm512_srai_epi32(_mm512_sub_epi32(all, below), (int)(2 * g)));
    below = all;
  }
}

EDGE_INLINE void tile(const size_t rows, const size_t groups, size_t quads, const uint8_t *panel, const int8_t *codes,
                      size_t padded, int32_t *sums) {
  const __m512i mask = _mm512_set1_epi8(3);
  __m512i sum[TILE_ROWS][4];
  EDGE_UNROLL
  for (size_t r = 0; r < rows; ++r) {
    EDGE_UNROLL
    for (size_t g = 0; g < groups; ++g) sum[r][g] = _mm512_setzero_si512();
  }
  for (size_t q = 0; q < quads; ++q, panel += QUAD_BYTES, codes += 4) {
    const __m512i packed = _mm512_load_si512(panel);
    __m512i w[4];
    w[0] = _mm512_and_si512(packed, mask);
    w[1] = _mm512_and_si512(_mm512_srli_epi16(packed, 2), mask);
    w[2] = _mm512_and_si512(_mm512_srli_epi16(packed, 4), mask);
    w[3] = _mm512_and_si512(_mm512_srli_epi16(packed, 6), mask);
    EDGE_UNROLL
    for (size_t r = 0; r < rows; ++r) {
      const __m512i x = quad_at(codes + r * padded);
      EDGE_UNROLL
      for (size_t g = 0; g < groups; ++g) sum[r][g] = _mm512_dpbusd_epi32(sum[r][g], w[g], x);
    }
  }
  EDGE_UNROLL
  for (size_t r = 0; r < rows; ++r) {
    EDGE_UNROLL
    for (size_t g = 0; g < groups; ++g) _mm512_storeu_si512(sums + r * EDGE_PANEL + 16 * g, sum[r][g]);
  }
}

/* The sums of all rows of one panel. */
EDGE_INLINE void panel_sums(const size_t groups, const edge_qd8_gemm *gemm, const uint8_t *panel, int32_t *sums) {
  const size_t quads = quads_of(gemm->k), padded = gemm->padded;
  size_t r = 0;
  for (; r + TILE_ROWS <= gemm->rows; r += TILE_ROWS) {
    tile(TILE_ROWS, groups, quads, panel, gemm->codes + r * padded, padded, sums + r * EDGE_PANEL);
  }
  const int8_t *codes = gemm->codes + r * padded;
  sums += r * EDGE_PANEL;
  switch (gemm->rows - r) {
    case 1: row_tile(groups, quads, panel, codes, sums); break;
    case 2: tile(2, groups, quads, panel, codes, padded, sums); break;
    case 3: tile(3, groups, quads, panel, codes, padded, sums); break;
    case 4: tile(4, groups, quads, panel, codes, padded, sums); break;
    case 5: tile(5, groups, quads, panel, codes, padded, sums); break;
    default: break;
  }
}

void edge_qd8_f32_qc2w_gemm__avx512vnni(const edge_qd8_gemm *gemm, size_t first, size_t last) {
  const size_t panel_bytes = quads_of(gemm->k) * QUAD_BYTES;
  const uint8_t *panel = (const uint8_t *)gemm->weight + first / EDGE_PANEL * panel_bytes;
  for (size_t o = first; o < last; o += EDGE_PANEL, panel += panel_bytes) {
    _Alignas(64) int32_t sums[EDGE_ROW_BLOCK * EDGE_PANEL];
    const size_t count = last - o < EDGE_PANEL ? last - o : EDGE_PANEL;
    switch ((count + 15) / 16) {
      case 1: panel_sums(1, gemm, panel, sums); break;
      case 2: panel_sums(2, gemm, panel, sums); break;
      case 3: panel_sums(3, gemm, panel, sums); break;
      default: panel_sums(4, gemm, panel, sums); break;
    }
    v_finish(gemm, sums, gemm->zero_point, o, count);
  }
}

EDGE_TARGET_END

#endif
