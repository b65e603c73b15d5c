/* int8 activations times 2-bit weights with vpmaddubsw; the contract is that of scalar/qd8_f32_qc2w_gemm.c.
 *
 * Layout N32K4: a panel holds 32 outputs, quad by quad of k; a quad is 32 bytes, one register. Byte b is of the outputs
 * b / 4, 8 + b / 4, 16 + b / 4 and 24 + b / 4 (two bits each, the first lowest), at k = 4 * quad + b % 4. Outputs
 * beyond n and values beyond k have code 0.
 *
 * A code is unsigned, so vpmaddubsw takes it and the broadcast activations as they are; pairs are added in 16 bits and
 * flushed to 32 before they can overflow. One row works on the packed register: one shift and the masks 0x03 and 0x0C
 * give its four fields, two of them times 4. More rows first unpack a stretch of the panel into the first-level cache.
 *
 * The largest code decides how long 16 bits last; the packed weights begin with it. Ternary weights have 2.
 */
#include "kernels/avx2/avx2.h"

#if defined(__x86_64__)

#include "kernels/avx2/vector__avx2.h"
#include "kernels/scalar/scalar.h"

#define QUAD_BYTES 32
#define PANEL 32
/* Rows of a tile: 12 of the 16 registers hold its sums. */
#define TILE_ROWS 6
/* Quads that are unpacked at a time: 128 bytes each. */
#define UNPACKED_QUADS 128

typedef struct header {
  uint32_t largest; /* code */
  uint32_t unused[15];
} header;

static size_t quads_of(size_t k) { return (k + 3) / 4; }
static size_t panels_of(size_t n) { return (n + EDGE_PANEL - 1) / EDGE_PANEL * (EDGE_PANEL / PANEL); }

size_t edge_qd8_f32_qc2w_packed_bytes__avx2(size_t n, size_t k) {
  return sizeof(header) + panels_of(n) * quads_of(k) * QUAD_BYTES;
}

void edge_qd8_f32_qc2w_pack__avx2(size_t n, size_t k, const uint8_t *weight, void *packed) {
  const size_t quads = quads_of(k);
  const uint8_t last = k % 4 == 0 ? 0xFF : (uint8_t)((1u << 2 * (k % 4)) - 1); /* the padding of a row is anything */
  memset(packed, 0, edge_qd8_f32_qc2w_packed_bytes__avx2(n, k));
  header *head = packed;
  head->largest = 2;
  uint8_t *panels = (uint8_t *)(head + 1);
  for (size_t o = 0; o < n; ++o) {
    uint8_t *to = panels + o / PANEL * quads * QUAD_BYTES + o % 8 * 4;
    const unsigned shift = (unsigned)(o % PANEL / 8 * 2);
    for (size_t q = 0; q < quads; ++q, to += QUAD_BYTES) {
      const uint32_t byte = *weight++ & (q + 1 == quads ? last : 0xFF);
      if (byte & byte >> 1 & 0x55) head->largest = 3;
      uint32_t four = (byte | byte << 12) & 0x000F000Fu;
      four = (four | four << 6) & 0x03030303u;
      uint32_t word;
      memcpy(&word, to, sizeof word);
      word |= four << shift;
      memcpy(to, &word, sizeof word);
    }
  }
}

EDGE_TARGET_BEGIN(EDGE_AVX2)

#include "kernels/simd/math.h"
/* which it uses */
#include "kernels/simd/finish.h"

/* Compilers reorder intrinsics until the registers do not suffice; in this order they do. */
#define LOAD(v, p) __asm__ volatile("vmovdqa %1, %0" : "=x"(v) : "m"(*(const __m256i *)(p)))
#define BROADCAST(v, p) __asm__ volatile("vpbroadcastd %1, %0" : "=x"(v) : "m"(*(const int32_t *)(p)))
#define AND(v, a, b) __asm__ volatile("vpand %2, %1, %0" : "=x"(v) : "x"(a), "x"(b))
#define SHIFT4(v) __asm__ volatile("vpsrlw $4, %0, %0" : "+x"(v))
#define ADD_PRODUCTS(sum, codes, x)                                       \
  do {                                                                    \
    __m256i pairs_;                                                       \
    __asm__ volatile("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0"         \
                     : "+x"(sum), "=&x"(pairs_)                           \
                     : "x"(codes), "x"(x));                               \
  } while (0)

EDGE_INLINE __m256i widen(__m256i sums, __m256i pairs) {
  return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

/* One quad of two panels. */
#define QUAD(panel, codes)       \
  do {                           \
    __m256i x, w, field;         \
    BROADCAST(x, codes);         \
    LOAD(w, panel);              \
    AND(field, w, low);          \
    ADD_PRODUCTS(s0, field, x);  \
    AND(field, w, high);         \
    ADD_PRODUCTS(s1, field, x);  \
    SHIFT4(w);                   \
    AND(field, w, low);          \
    ADD_PRODUCTS(s2, field, x);  \
    AND(field, w, high);         \
    ADD_PRODUCTS(s3, field, x);  \
    LOAD(w, (panel) + other);    \
    AND(field, w, low);          \
    ADD_PRODUCTS(s4, field, x);  \
    AND(field, w, high);         \
    ADD_PRODUCTS(s5, field, x);  \
    SHIFT4(w);                   \
    AND(field, w, low);          \
    ADD_PRODUCTS(s6, field, x);  \
    AND(field, w, high);         \
    ADD_PRODUCTS(s7, field, x);  \
  } while (0)

/* The sums of one row and two panels, 64 outputs. */
static void row_tile(size_t quads, size_t flush, const uint8_t *panel, const int8_t *codes, int32_t *sums) {
  const __m256i low = _mm256_set1_epi8(0x03), high = _mm256_set1_epi8(0x0C), zero = _mm256_setzero_si256();
  const size_t other = quads * QUAD_BYTES;
  __m256i sum[8];
  for (size_t i = 0; i < 8; ++i) sum[i] = zero;
  for (size_t begin = 0; begin < quads; begin += flush) {
    const size_t end = begin + flush < quads ? begin + flush : quads;
    __m256i s0 = zero, s1 = zero, s2 = zero, s3 = zero, s4 = zero, s5 = zero, s6 = zero, s7 = zero;
    size_t q = begin;
    for (; q + 2 <= end; q += 2, panel += 2 * QUAD_BYTES, codes += 8) {
      _mm_prefetch((const char *)panel + 1024, _MM_HINT_T0);
      _mm_prefetch((const char *)panel + other + 1024, _MM_HINT_T0);
      QUAD(panel, codes);
      QUAD(panel + QUAD_BYTES, codes + 4);
    }
    for (; q < end; ++q, panel += QUAD_BYTES, codes += 4) QUAD(panel, codes);
    sum[0] = widen(sum[0], s0);
    sum[1] = widen(sum[1], s1);
    sum[2] = widen(sum[2], s2);
    sum[3] = widen(sum[3], s3);
    sum[4] = widen(sum[4], s4);
    sum[5] = widen(sum[5], s5);
    sum[6] = widen(sum[6], s6);
    sum[7] = widen(sum[7], s7);
  }
  for (size_t i = 0; i < 8; ++i) {
    if (i % 2 == 1) sum[i] = _mm256_srai_epi32(sum[i], 2); /* those of 0x0C are times 4 */
    _mm256_storeu_si256((__m256i *)(sums + 8 * i), sum[i]);
  }
}

/* Unpacks quads of a panel: sixteen outputs of all of them, 64 bytes a quad, then the other sixteen. */
static void unpack(size_t quads, const uint8_t *panel, uint8_t *unpacked) {
  const __m256i mask = _mm256_set1_epi8(0x03);
  uint8_t *second = unpacked + 64 * quads;
  for (size_t q = 0; q < quads; ++q, panel += QUAD_BYTES, unpacked += 64, second += 64) {
    const __m256i w = _mm256_load_si256((const __m256i *)panel);
    _mm256_store_si256((__m256i *)unpacked, _mm256_and_si256(w, mask));
    _mm256_store_si256((__m256i *)(unpacked + 32), _mm256_and_si256(_mm256_srli_epi16(w, 2), mask));
    _mm256_store_si256((__m256i *)second, _mm256_and_si256(_mm256_srli_epi16(w, 4), mask));
    _mm256_store_si256((__m256i *)(second + 32), _mm256_and_si256(_mm256_srli_epi16(w, 6), mask));
  }
}

/* Adds to the sums of `rows` rows and sixteen outputs what some unpacked quads give. */
#define ROW(i)                                     \
  do {                                             \
    if (rows > i) {                                \
      __m256i x;                                   \
      BROADCAST(x, codes + i * padded + 4 * q);    \
      ADD_PRODUCTS(a##i, w0, x);                   \
      ADD_PRODUCTS(b##i, w1, x);                   \
    }                                              \
  } while (0)
#define FLUSH(i)                                                                       \
  do {                                                                                 \
    if (rows > i) {                                                                    \
      __m256i *at = (__m256i *)(sums + i * EDGE_PANEL);                                \
      _mm256_storeu_si256(at, widen(_mm256_loadu_si256(at), a##i));                    \
      _mm256_storeu_si256(at + 1, widen(_mm256_loadu_si256(at + 1), b##i));            \
    }                                                                                  \
  } while (0)

EDGE_INLINE void tile(const size_t rows, size_t quads, size_t flush, const uint8_t *unpacked, const int8_t *codes,
                      size_t padded, int32_t *sums) {
  const __m256i zero = _mm256_setzero_si256();
  for (size_t begin = 0; begin < quads; begin += flush) {
    const size_t end = begin + flush < quads ? begin + flush : quads;
    __m256i a0 = zero, a1 = zero, a2 = zero, a3 = zero, a4 = zero, a5 = zero;
    __m256i b0 = zero, b1 = zero, b2 = zero, b3 = zero, b4 = zero, b5 = zero;
    for (size_t q = begin; q < end; ++q, unpacked += 64) {
      __m256i w0, w1;
      LOAD(w0, unpacked);
      LOAD(w1, unpacked + 32);
      ROW(0);
      ROW(1);
      ROW(2);
      ROW(3);
      ROW(4);
      ROW(5);
    }
    FLUSH(0);
    FLUSH(1);
    FLUSH(2);
    FLUSH(3);
    FLUSH(4);
    FLUSH(5);
  }
}

/* The sums of all rows of one panel; `sums` are 0 before. */
static void panel_sums(const edge_qd8_gemm *gemm, size_t flush, const uint8_t *panel, int32_t *sums) {
  const size_t quads = quads_of(gemm->k), padded = gemm->padded;
  _Alignas(32) uint8_t unpacked[UNPACKED_QUADS * 128];
  for (size_t begin = 0; begin < quads; begin += UNPACKED_QUADS) {
    const size_t some = quads - begin < UNPACKED_QUADS ? quads - begin : UNPACKED_QUADS;
    unpack(some, panel + begin * QUAD_BYTES, unpacked);
    for (size_t half = 0; half < 2; ++half) {
      const uint8_t *w = unpacked + half * 64 * some;
      for (size_t r = 0; r < gemm->rows; r += TILE_ROWS) {
        const int8_t *codes = gemm->codes + r * padded + 4 * begin;
        int32_t *to = sums + r * EDGE_PANEL + 16 * half;
        switch (gemm->rows - r) {
          case 1: tile(1, some, flush, w, codes, padded, to); break;
          case 2: tile(2, some, flush, w, codes, padded, to); break;
          case 3: tile(3, some, flush, w, codes, padded, to); break;
          case 4: tile(4, some, flush, w, codes, padded, to); break;
          case 5: tile(5, some, flush, w, codes, padded, to); break;
          default: tile(6, some, flush, w, codes, padded, to); break;
        }
      }
    }
  }
}

void edge_qd8_f32_qc2w_gemm__avx2(const edge_qd8_gemm *gemm, size_t first, size_t last) {
  const header *head = gemm->weight;
  const size_t panel_bytes = quads_of(gemm->k) * QUAD_BYTES;
  const uint8_t *panel = (const uint8_t *)(head + 1) + first / PANEL * panel_bytes;
  /* Steps of two products of 128 and the largest code (times 4 behind the mask 0x0C) that stay within -32768. */
  const size_t flush = head->largest == 2 ? 64 : 42, row_flush = head->largest == 2 ? 16 : 10;
  for (size_t o = first; o < last; o += EDGE_PANEL, panel += 2 * panel_bytes) {
    _Alignas(64) int32_t sums[EDGE_ROW_BLOCK * EDGE_PANEL];
    const size_t count = last - o < EDGE_PANEL ? last - o : EDGE_PANEL;
    if (gemm->rows < 3) {
      for (size_t r = 0; r < gemm->rows; ++r) {
        row_tile(quads_of(gemm->k), row_flush, panel, gemm->codes + r * gemm->padded, sums + r * EDGE_PANEL);
      }
    } else {
      memset(sums, 0, gemm->rows * EDGE_PANEL * sizeof sums[0]);
      panel_sums(gemm, flush, panel, sums);
      if (count > PANEL) panel_sums(gemm, flush, panel + panel_bytes, sums + PANEL);
    }
    v_finish(gemm, sums, gemm->zero_point, o, count);
  }
}

EDGE_TARGET_END

#endif
