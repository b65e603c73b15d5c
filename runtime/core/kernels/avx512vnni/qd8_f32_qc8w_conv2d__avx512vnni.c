/* int8 convolutions with vpdpbusd: codes plus 128 are the unsigned factor, broadcast; the weights of 64 outputs, quad by
 * quad, the signed one. Sums start from -128 times the sum of the weights. See simd/qd8_conv2d.h. */
#include "kernels/avx512vnni/avx512vnni.h"

#if defined(__x86_64__)

#include "kernels/avx512vnni/vector__avx512vnni.h"
#include "kernels/scalar/scalar.h"

#define TILE_PIXELS 6
#define CONV_ZERO 128
typedef uint8_t conv_code;
typedef int8_t conv_weight;

static size_t conv_quad_place(size_t o, size_t i) { return o * 4 + i; }

EDGE_TARGET_BEGIN(EDGE_AVX512VNNI)

typedef struct conv_layout conv_layout;
static void conv_sums(const conv_layout *layout, const int32_t *correction, const conv_weight *weight,
                      const conv_code *const *pixel, size_t rows, size_t groups, int32_t *sums);

#include "kernels/simd/math.h"
/* in this order */
#include "kernels/simd/finish.h"
/* and what becomes of the sums */
#include "kernels/simd/qd8_conv2d.h"

EDGE_INLINE void conv_tile(const size_t rows, const size_t groups, const conv_layout *layout, const int32_t *correction,
                           const int8_t *weight, const uint8_t *const *pixel, int32_t *sums) {
  __m512i sum[TILE_PIXELS][4];
  EDGE_UNROLL
  for (size_t r = 0; r < rows; ++r) {
    EDGE_UNROLL
    for (size_t g = 0; g < groups; ++g) sum[r][g] = vi_load(correction + 16 * g);
  }
  for (size_t h = 0; h < layout->runs_h; ++h) {
    for (size_t w = 0; w < layout->runs_w; ++w) {
      const size_t run = h * layout->run_h_step + w * layout->run_w_step;
      for (size_t q = 0; q < layout->quads; ++q, weight += EDGE_PANEL * 4) {
        __m512i factor[4];
        EDGE_UNROLL
        for (size_t g = 0; g < groups; ++g) factor[g] = _mm512_loadu_si512(weight + 64 * g);
        EDGE_UNROLL
        for (size_t r = 0; r < rows; ++r) {
          int32_t four;
          memcpy(&four, pixel[r] + run + 4 * q, sizeof four);
          const __m512i codes = _mm512_set1_epi32(four);
          EDGE_UNROLL
          for (size_t g = 0; g < groups; ++g) sum[r][g] = _mm512_dpbusd_epi32(sum[r][g], codes, factor[g]);
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

EDGE_INLINE void conv_panel(const size_t groups, const conv_layout *layout, const int32_t *correction,
                            const int8_t *weight, const uint8_t *const *pixel, size_t rows, int32_t *sums) {
  size_t r = 0;
  for (; r + TILE_PIXELS <= rows; r += TILE_PIXELS) {
    conv_tile(TILE_PIXELS, groups, layout, correction, weight, pixel + r, sums + r * EDGE_PANEL);
  }
  for (; r < rows; ++r) conv_tile(1, groups, layout, correction, weight, pixel + r, sums + r * EDGE_PANEL);
}

static void conv_sums(const conv_layout *layout, const int32_t *correction, const conv_weight *weight,
                      const conv_code *const *pixel, size_t rows, size_t groups, int32_t *sums) {
  switch (groups) {
    case 1: conv_panel(1, layout, correction, weight, pixel, rows, sums); break;
    case 2: conv_panel(2, layout, correction, weight, pixel, rows, sums); break;
    case 3: conv_panel(3, layout, correction, weight, pixel, rows, sums); break;
    default: conv_panel(4, layout, correction, weight, pixel, rows, sums); break;
  }
}

EDGE_TARGET_END

#endif
