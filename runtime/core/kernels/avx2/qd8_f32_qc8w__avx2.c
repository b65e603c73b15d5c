/* int8 codes times int8 weights with vpmaddubsw: |w| is unsigned, and the code takes the sign of w. A sum of two products
 * is at most 2 * 128 * 127 and fits 16 bits; two of those are added into 32 at once. See simd/qd8_dense.h. */
#include "kernels/avx2/avx2.h"

#if defined(__x86_64__)

#include "kernels/avx2/vector__avx2.h"
#include "kernels/scalar/scalar.h"

#define DENSE_OFFSET 0
#define DENSE_ROWS 4
#define KEY_STEP 2
#define PART_STEP 2
#define HEAD_ROWS 4
#define HEAD_VECTORS 1
#define DEPTHWISE_VECTORS 1

EDGE_TARGET_BEGIN(EDGE_AVX2)

#include "kernels/simd/math.h"
/* in this order */
#include "kernels/simd/finish.h"
/* each on the one before */
#include "kernels/simd/qd8_dense.h"
/* and two on that */
#include "kernels/simd/qd8_conv2d.h"
/* which serves what this does not */
#include "kernels/avx2/qd8_conv2d_winograd.h"
/* beside it */
#include "kernels/simd/qd8_attention.h"
#include "kernels/simd/qd8_dense_gemm.h"

/* Sixteen outputs at a time: they and the rows fill the registers. */
EDGE_INLINE void dense_tile(const size_t rows, const size_t groups, const dense_runs *runs, const int32_t *start,
                            const int8_t *weight, const int8_t *const *row, int32_t *sums) {
  const __m256i ones = _mm256_set1_epi16(1);
  for (size_t g = 0; g < groups; ++g) {
    const int8_t *from = weight + 64 * g;
    vi sum[DENSE_ROWS];
    EDGE_UNROLL
    for (size_t r = 0; r < rows; ++r) sum[r] = vi_load(start + 16 * g);
    for (size_t d = 0; d < runs->down; ++d) {
      for (size_t a = 0; a < runs->across; ++a) {
        const size_t at = d * runs->down_step + a * runs->across_step;
        for (size_t q = 0; q < runs->quads; ++q, from += EDGE_PANEL * 4) {
          const vi w = {_mm256_loadu_si256((const __m256i *)from), _mm256_loadu_si256((const __m256i *)(from + 32))};
          const vi size = {_mm256_abs_epi8(w.lo), _mm256_abs_epi8(w.hi)};
          EDGE_UNROLL
          for (size_t r = 0; r < rows; ++r) {
            int32_t four;
            memcpy(&four, row[r] + at + 4 * q, sizeof four);
            const __m256i codes = _mm256_set1_epi32(four);
            const __m256i lo = _mm256_maddubs_epi16(size.lo, _mm256_sign_epi8(codes, w.lo));
            const __m256i hi = _mm256_maddubs_epi16(size.hi, _mm256_sign_epi8(codes, w.hi));
            sum[r].lo = _mm256_add_epi32(sum[r].lo, _mm256_madd_epi16(lo, ones));
            sum[r].hi = _mm256_add_epi32(sum[r].hi, _mm256_madd_epi16(hi, ones));
          }
        }
      }
    }
    EDGE_UNROLL
    for (size_t r = 0; r < rows; ++r) vi_store(sums + r * EDGE_PANEL + 16 * g, sum[r]);
  }
}

EDGE_INLINE __m256i dot_of_eight(__m256i sum, __m256i quads, __m256i w) {
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(quads, w));
  return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
EDGE_INLINE vi vi_dot(vi sum, vi quads, vi w) {
  return (vi){dot_of_eight(sum.lo, quads.lo, w.lo), dot_of_eight(sum.hi, quads.hi, w.hi)};
}

EDGE_TARGET_END

#endif
