/* int8 codes times int8 weights with vpdpbusd: codes plus 128, which are unsigned, broadcast; weights as they are. See
 * simd/qd8_dense.h. */
#include "kernels/avxvnni/avxvnni.h"

#if defined(EDGE_HAS_AVXVNNI)

#include "kernels/avx2/vector__avx2.h"
#include "kernels/scalar/scalar.h"

#undef EDGE_SIMD
#define EDGE_SIMD(name) name##__avxvnni

#define DENSE_OFFSET 128
#define DENSE_ROWS 6
#define KEY_STEP 4
#define PART_STEP 2
#define HEAD_ROWS 4
#define HEAD_VECTORS 1
#define DEPTHWISE_VECTORS 1

EDGE_TARGET_BEGIN(EDGE_AVXVNNI)

EDGE_INLINE vs vf_as_quads(vf x) { return vf_as_twos(x); }
/* The four are made unsigned: plus 128, modulo 256. */
EDGE_INLINE vi vi_add_quads(vi sum, vs a, vs four) {
  const __m256i offset = _mm256_set1_epi8((char)128);
  EDGE_ADD_DOT(sum.lo, _mm256_xor_si256(four.lo, offset), a.lo);
  EDGE_ADD_DOT(sum.hi, _mm256_xor_si256(four.hi, offset), a.hi);
  return sum;
}

#include "kernels/simd/math.h"
/* in this order */
#include "kernels/simd/finish.h"
/* each on the one before */
#include "kernels/simd/qd8_dense.h"
/* and two on that */
#include "kernels/simd/qd8_conv2d.h"
/* beside it */
#include "kernels/simd/qd8_attention.h"
#include "kernels/simd/qd8_dense_gemm.h"

/* Sixteen outputs at a time: they and the rows fill the registers. */
EDGE_INLINE void dense_tile(const size_t rows, const size_t groups, const dense_runs *runs, const int32_t *start,
                            const int8_t *weight, const int8_t *const *row, int32_t *sums) {
  const __m256i offset = _mm256_set1_epi8((char)DENSE_OFFSET);
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
          EDGE_UNROLL
          for (size_t r = 0; r < rows; ++r) {
            int32_t four;
            memcpy(&four, row[r] + at + 4 * q, sizeof four);
            const __m256i codes = _mm256_xor_si256(_mm256_set1_epi32(four), offset); /* adds, modulo 256 */
            EDGE_ADD_DOT(sum[r].lo, codes, w.lo);
            EDGE_ADD_DOT(sum[r].hi, codes, w.hi);
          }
        }
      }
    }
    EDGE_UNROLL
    for (size_t r = 0; r < rows; ++r) vi_store(sums + r * EDGE_PANEL + 16 * g, sum[r]);
  }
}

EDGE_INLINE vi vi_dot(vi sum, vi quads, vi w) {
  return (vi){EDGE_DPBUSD(sum.lo, quads.lo, w.lo), EDGE_DPBUSD(sum.hi, quads.hi, w.hi)};
}

EDGE_TARGET_END

#endif
