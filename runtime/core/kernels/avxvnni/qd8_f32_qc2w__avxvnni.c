/* int8 activations times 2-bit weights with vpdpbusd; the contract is that of scalar/qd8_f32_qc2w_gemm.c.
 *
 * The packed weights are those of simd/qc2w_panels.h: their codes are the unsigned factor, the activations' quad,
 * broadcast, is the signed one. More rows than two are avx2/qc2w_rows.h's. With one row the masks are 0x03, 0x0F, 0x3F
 * and none, which saves the shifts: each sum then holds those of the fields below it too, times powers of 4, and they
 * are taken off at the end.
 */
#include "kernels/avxvnni/avxvnni.h"

#if defined(EDGE_HAS_AVXVNNI)

#include "kernels/avx2/vector__avx2.h"
#include "kernels/scalar/scalar.h"
#include "kernels/simd/qc2w_panels.h"

/* 255 * 128 * k must stay below 2^31 for the sums of unmasked bytes. */
#define DEEPEST 65536

size_t edge_qd8_f32_qc2w_packed_bytes__avxvnni(size_t n, size_t k) { return k <= DEEPEST ? panels_bytes(n, k) : 0; }

void edge_qd8_f32_qc2w_pack__avxvnni(size_t n, size_t k, const uint8_t *weight, void *packed) {
  pack_panels(n, k, weight, packed);
}

EDGE_TARGET_BEGIN(EDGE_AVXVNNI)

#include "kernels/simd/math.h"
/* in this order */
#include "kernels/simd/finish.h"
/* both of which it stands beside */
#include "kernels/avx2/qc2w_rows.h"

EDGE_INLINE __m256i quad_at(const int8_t *codes) {
  int32_t four;
  memcpy(&four, codes, sizeof four);
  return _mm256_set1_epi32(four);
}

/* The sums of one row and a panel. */
EDGE_APART void row_tile(size_t quads, const uint8_t *panel, const int8_t *codes, int32_t *sums) {
  const __m256i mask[3] = {_mm256_set1_epi8(0x03), _mm256_set1_epi8(0x0F), _mm256_set1_epi8(0x3F)};
  vi sum[4];
  EDGE_UNROLL
  for (size_t f = 0; f < 4; ++f) sum[f] = vi_set(0);
  for (size_t q = 0; q < quads; ++q, panel += QUAD_BYTES, codes += 4) {
    _mm_prefetch((const char *)panel + 1024, _MM_HINT_T0);
    const __m256i x = quad_at(codes);
    const vi w = {_mm256_load_si256((const __m256i *)panel), _mm256_load_si256((const __m256i *)(panel + 32))};
    EDGE_UNROLL
    for (size_t f = 0; f < 4; ++f) {
      EDGE_ADD_DOT(sum[f].lo, f < 3 ? _mm256_and_si256(w.lo, mask[f]) : w.lo, x);
      EDGE_ADD_DOT(sum[f].hi, f < 3 ? _mm256_and_si256(w.hi, mask[f]) : w.hi, x);
    }
  }
  vi below = vi_set(0);
  EDGE_UNROLL
  for (int f = 0; f < 4; ++f) {
    const vi own = vi_sub(sum[f], below);
    vi_store(sums + 16 * f, (vi){_mm256_srai_epi32(own.lo, 2 * f), _mm256_srai_epi32(own.hi, 2 * f)});
    below = sum[f];
  }
}

EDGE_INLINE void tile(const size_t rows, size_t quads, size_t flush, const uint8_t *unpacked, const int8_t *codes,
                      size_t padded, bool fresh, int32_t *sums) {
  (void)flush;
  __m256i lo[TILE_ROWS], hi[TILE_ROWS];
  EDGE_UNROLL
  for (size_t r = 0; r < rows; ++r) lo[r] = hi[r] = _mm256_setzero_si256();
  for (size_t q = 0; q < quads; ++q, unpacked += 64, codes += 4) {
    const __m256i w0 = _mm256_load_si256((const __m256i *)unpacked);
    const __m256i w1 = _mm256_load_si256((const __m256i *)(unpacked + 32));
    EDGE_UNROLL
    for (size_t r = 0; r < rows; ++r) {
      const __m256i x = quad_at(codes + r * padded);
      EDGE_ADD_DOT(lo[r], w0, x);
      EDGE_ADD_DOT(hi[r], w1, x);
    }
  }
  EDGE_UNROLL
  for (size_t r = 0; r < rows; ++r) {
    const vi sum = {lo[r], hi[r]};
    vi_store(sums + r * EDGE_PANEL, fresh ? sum : vi_add(sum, vi_load(sums + r * EDGE_PANEL)));
  }
}

void edge_qd8_f32_qc2w_gemm__avxvnni(const edge_qd8_gemm *gemm, size_t first, size_t last) {
  const size_t panel_bytes = quads_of(gemm->k) * QUAD_BYTES;
  const uint8_t *panel = (const uint8_t *)gemm->weight + first / EDGE_PANEL * panel_bytes;
  for (size_t o = first; o < last; o += EDGE_PANEL, panel += panel_bytes) {
    _Alignas(64) int32_t sums[EDGE_ROW_BLOCK * EDGE_PANEL];
    const size_t count = last - o < EDGE_PANEL ? last - o : EDGE_PANEL;
    if (gemm->rows < 3) {
      for (size_t r = 0; r < gemm->rows; ++r) {
        row_tile(quads_of(gemm->k), panel, gemm->codes + r * gemm->padded, sums + r * EDGE_PANEL);
      }
    } else {
      panel_sums(gemm, count, 0, panel, sums);
    }
    v_finish(gemm, sums, gemm->zero_point, o, count);
  }
}

EDGE_TARGET_END

#endif
