/* int8 codes times int8 weights with vpdpbusd: codes plus 128, which are unsigned, broadcast; weights as they are. See
 * simd/qd8_dense.h. */
#include "kernels/avx512vnni/avx512vnni.h"

#if defined(__x86_64__)

#include "kernels/avx512vnni/vector__avx512vnni.h"
#include "kernels/scalar/scalar.h"

#define DENSE_OFFSET 128
#define DENSE_ROWS 6
#define KEY_STEP 4
#define PART_STEP 2
#define HEAD_ROWS 4
#define HEAD_VECTORS 4
#define DEPTHWISE_VECTORS 2

EDGE_TARGET_BEGIN(EDGE_AVX512VNNI)

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

EDGE_INLINE void dense_tile(const size_t rows, const size_t groups, const dense_runs *runs, const int32_t *start,
                            const int8_t *weight, const int8_t *const *row, int32_t *sums) {
  const __m512i offset = _mm512_set1_epi8((char)DENSE_OFFSET);
  __m512i sum[DENSE_ROWS][4];
  EDGE_UNROLL
  for (size_t r = 0; r < rows; ++r) {
    EDGE_UNROLL
    for (size_t g = 0; g < groups; ++g) sum[r][g] = vi_load(start + 16 * g);
  }
  for (size_t d = 0; d < runs->down; ++d) {
    for (size_t a = 0; a < runs->across; ++a) {
      const size_t at = d * runs->down_step + a * runs->across_step;
      for (size_t q = 0; q < runs->quads; ++q, weight += EDGE_PANEL * 4) {
        __m512i w[4];
        EDGE_UNROLL
        for (size_t g = 0; g < groups; ++g) w[g] = _mm512_loadu_si512(weight + 64 * g);
        EDGE_UNROLL
        for (size_t r = 0; r < rows; ++r) {
          int32_t four;
          memcpy(&four, row[r] + at + 4 * q, sizeof four);
          const __m512i codes = _mm512_xor_si512(_mm512_set1_epi32(four), offset); /* adds, modulo 256 */
          EDGE_UNROLL
          for (size_t g = 0; g < groups; ++g) sum[r][g] = _mm512_dpbusd_epi32(sum[r][g], codes, w[g]);
        }
      }
    }
  }
  EDGE_UNROLL
  for (size_t r = 0; r < rows; ++r) {
    EDGE_UNROLL
    for (size_t g = 0; g < groups; ++g) vi_store(sums + r * EDGE_PANEL + 16 * g, sum[r][g]);
  }
}

EDGE_INLINE vi vi_dot(vi sum, vi quads, vi w) { return _mm512_dpbusd_epi32(sum, quads, w); }

EDGE_TARGET_END

#endif
