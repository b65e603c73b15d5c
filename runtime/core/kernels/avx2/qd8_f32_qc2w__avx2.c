/* int8 activations times 2-bit weights with vpmaddubsw; the contract is that of scalar/qd8_f32_qc2w_gemm.c.
 *
 * A code is unsigned, so vpmaddubsw takes it and the broadcast activations as they are; pairs are added in 16 bits and
 * flushed to 32 before they can overflow. One row works on the packed registers of simd/qc2w_panels.h: one shift and
 * the masks 0x03 and 0x0C give a register's four fields, two of them times 4. More rows are avx2/qc2w_rows.h's.
 *
 * The largest code decides how long 16 bits last; the packed weights begin with it. Ternary weights have 2.
 */
#include "kernels/avx2/avx2.h"

#if defined(__x86_64__)

#include "kernels/avx2/vector__avx2.h"
#include "kernels/scalar/scalar.h"
#include "kernels/simd/qc2w_panels.h"

typedef struct header {
  uint32_t largest; /* code */
  uint32_t unused[15];
} header;

size_t edge_qd8_f32_qc2w_packed_bytes__avx2(size_t n, size_t k) { return sizeof(header) + panels_bytes(n, k); }

void edge_qd8_f32_qc2w_pack__avx2(size_t n, size_t k, const uint8_t *weight, void *packed) {
  header *head = packed;
  *head = (header){.largest = pack_panels(n, k, weight, (uint8_t *)(head + 1))};
}

EDGE_TARGET_BEGIN(EDGE_AVX2)

#include "kernels/simd/math.h"
/* in this order */
#include "kernels/simd/finish.h"
/* both of which it stands beside */
#include "kernels/avx2/qc2w_rows.h"

/* Compilers reorder intrinsics until the registers do not suffice; in this order they do. */
#define LOAD(v, p) __asm__ volatile("vmovdqa %1, %0" : "=x"(v) : "m"(*(const __m256i *)(p)))
#define AND(v, a, b) __asm__ volatile("vpand %2, %1, %0" : "=x"(v) : "x"(a), "x"(b))
#define SHIFT4(v) __asm__ volatile("vpsrlw $4, %0, %0" : "+x"(v))
#define MULTIPLY(v, w, x) __asm__ volatile("vpmaddubsw %2, %1, %0" : "=x"(v) : "x"(w), "x"(x))
#define ADD(sum, v) __asm__ volatile("vpaddw %1, %0, %0" : "+x"(sum) : "x"(v))
#define BROADCAST(v, p) __asm__ volatile("vpbroadcastd %1, %0" : "=x"(v) : "m"(*(const int32_t *)(p)))
/* Of base + step or + 2 * step: compilers would compute most addresses in instructions of their own. */
#define BROADCAST_NEXT(v, base, step) __asm__ volatile("vpbroadcastd (%1,%2), %0" : "=x"(v) : "r"(base), "r"(step))
#define BROADCAST_THIRD(v, base, step) __asm__ volatile("vpbroadcastd (%1,%2,2), %0" : "=x"(v) : "r"(base), "r"(step))
/* Those two do not say what they read. */
#define AFTER_STORES __asm__ volatile("" : : : "memory")

EDGE_INLINE void add_pairs(int32_t *sums, __m256i pairs, bool fresh) {
  __m256i wide = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
  if (!fresh) wide = _mm256_add_epi32(wide, _mm256_loadu_si256((const __m256i *)sums));
  _mm256_storeu_si256((__m256i *)sums, wide);
}

/* Half a quad: eight outputs of each field. The products come before the sums, which wait for them. */
#define HALF(at, first, second, third, fourth) \
  do {                                         \
    __m256i w, a, b, c;                        \
    LOAD(w, at);                               \
    AND(a, w, low);                            \
    AND(b, w, high);                           \
    SHIFT4(w);                                 \
    AND(c, w, low);                            \
    AND(w, w, high);                           \
    MULTIPLY(a, a, x);                         \
    MULTIPLY(b, b, x);                         \
    MULTIPLY(c, c, x);                         \
    MULTIPLY(w, w, x);                         \
    ADD(first, a);                             \
    ADD(second, b);                            \
    ADD(third, c);                             \
    ADD(fourth, w);                            \
  } while (0)

EDGE_INLINE void quarter(int32_t *sums) {
  __m256i *at = (__m256i *)sums;
  _mm256_storeu_si256(at, _mm256_srai_epi32(_mm256_loadu_si256(at), 2));
}

/* The sums of one row and a panel. 16 bits hold `flush` steps of the fields that are times 4, 4 * flush of the rest. */
EDGE_APART void row_tile(size_t quads, size_t flush, const uint8_t *panel, const int8_t *codes, int32_t *sums) {
  const __m256i low = _mm256_set1_epi8(0x03), high = _mm256_set1_epi8(0x0C), zero = _mm256_setzero_si256();
  for (size_t begin = 0; begin < quads; begin += 4 * flush) {
    const size_t end = begin + 4 * flush < quads ? begin + 4 * flush : quads;
    __m256i a0 = zero, a1 = zero, c0 = zero, c1 = zero;
    for (size_t part = begin; part < end; part += flush) {
      const int8_t *stop = codes + 4 * (part + flush < end ? flush : end - part);
      __m256i b0 = zero, b1 = zero, d0 = zero, d1 = zero;
      for (; codes < stop; codes += 4, panel += QUAD_BYTES) {
        __m256i x;
        _mm_prefetch((const char *)panel + 2048, _MM_HINT_T0);
        BROADCAST(x, codes);
        HALF(panel, a0, b0, c0, d0);
        HALF(panel + 32, a1, b1, c1, d1);
      }
      add_pairs(sums + 16, b0, part == 0);
      add_pairs(sums + 24, b1, part == 0);
      add_pairs(sums + 48, d0, part == 0);
      add_pairs(sums + 56, d1, part == 0);
    }
    add_pairs(sums, a0, begin == 0);
    add_pairs(sums + 8, a1, begin == 0);
    add_pairs(sums + 32, c0, begin == 0);
    add_pairs(sums + 40, c1, begin == 0);
  }
  quarter(sums + 16);
  quarter(sums + 24);
  quarter(sums + 48);
  quarter(sums + 56);
}

/* `broadcast` gives x. */
#define ROW(i, broadcast)   \
  do {                      \
    if (rows > i) {         \
      __m256i x, y;         \
      broadcast;            \
      MULTIPLY(y, w0, x);   \
      MULTIPLY(x, w1, x);   \
      ADD(a##i, y);         \
      ADD(b##i, x);         \
    }                       \
  } while (0)
#define FLUSH(i, fresh)                                  \
  do {                                                   \
    if (rows > i) {                                      \
      add_pairs(sums + i * EDGE_PANEL, a##i, fresh);     \
      add_pairs(sums + i * EDGE_PANEL + 8, b##i, fresh); \
    }                                                    \
  } while (0)
#define FLUSH_ALL(fresh) \
  do {                   \
    FLUSH(0, fresh);     \
    FLUSH(1, fresh);     \
    FLUSH(2, fresh);     \
    FLUSH(3, fresh);     \
    FLUSH(4, fresh);     \
    FLUSH(5, fresh);     \
  } while (0)

EDGE_INLINE void tile(const size_t rows, size_t quads, size_t flush, const uint8_t *unpacked, const int8_t *codes,
                      size_t padded, bool fresh, int32_t *sums) {
  const __m256i zero = _mm256_setzero_si256();
  const uint8_t *end = unpacked + 64 * quads;
  AFTER_STORES;
  while (unpacked < end) {
    const uint8_t *stop = (size_t)(end - unpacked) < 64 * flush ? end : unpacked + 64 * flush;
    const int8_t *fourth = codes + 3 * padded; /* row */
    __m256i a0 = zero, a1 = zero, a2 = zero, a3 = zero, a4 = zero, a5 = zero;
    __m256i b0 = zero, b1 = zero, b2 = zero, b3 = zero, b4 = zero, b5 = zero;
    for (; unpacked < stop; unpacked += 64, codes += 4, fourth += 4) {
      __m256i w0, w1;
      LOAD(w0, unpacked);
      LOAD(w1, unpacked + 32);
      ROW(0, BROADCAST(x, codes));
      ROW(1, BROADCAST_NEXT(x, codes, padded));
      ROW(2, BROADCAST_THIRD(x, codes, padded));
      ROW(3, BROADCAST(x, fourth));
      ROW(4, BROADCAST_NEXT(x, fourth, padded));
      ROW(5, BROADCAST_THIRD(x, fourth, padded));
    }
    if (fresh) {
      FLUSH_ALL(true);
    } else {
      FLUSH_ALL(false);
    }
    fresh = false;
  }
}

void edge_qd8_f32_qc2w_gemm__avx2(const edge_qd8_gemm *gemm, size_t first, size_t last) {
  const header *head = gemm->weight;
  const size_t panel_bytes = quads_of(gemm->k) * QUAD_BYTES;
  const uint8_t *panel = (const uint8_t *)(head + 1) + first / EDGE_PANEL * panel_bytes;
  /* Steps of two products of 128 and the largest code (times 4 behind the mask 0x0C) that stay within -32768. */
  const size_t flush = head->largest == 2 ? 64 : 42, row_flush = head->largest == 2 ? 16 : 10;
  for (size_t o = first; o < last; o += EDGE_PANEL, panel += panel_bytes) {
    _Alignas(64) int32_t sums[EDGE_ROW_BLOCK * EDGE_PANEL];
    const size_t count = last - o < EDGE_PANEL ? last - o : EDGE_PANEL;
    if (gemm->rows < 3) {
      for (size_t r = 0; r < gemm->rows; ++r) {
        row_tile(quads_of(gemm->k), row_flush, panel, gemm->codes + r * gemm->padded, sums + r * EDGE_PANEL);
      }
    } else {
      panel_sums(gemm, count, flush, panel, sums);
    }
    v_finish(gemm, sums, gemm->zero_point, o, count);
  }
}

EDGE_TARGET_END

#endif
