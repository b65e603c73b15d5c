/* The GEMM of 2-bit weights and more rows than one or two, in 256-bit registers: sixteen outputs at a time, of which a
 * stretch of quads is first unpacked into the first-level cache, one code a byte.
 *
 * The file that includes this gives
 *   tile(rows, quads, flush, unpacked, codes, padded, fresh, sums)
 *                 of rows <= TILE_ROWS rows (a constant) and sixteen outputs, 64 unpacked bytes a quad; adds to
 *                 sums[row * EDGE_PANEL + output], or writes them if `fresh`; `flush` is what panel_sums was given
 */

/* Rows of a tile: with two registers of outputs, 12 of the 16 hold its sums. */
#define TILE_ROWS 6
/* Quads that are unpacked at a time: 12 KB. */
#define UNPACKED_QUADS 192

EDGE_INLINE void tile(const size_t rows, size_t quads, size_t flush, const uint8_t *unpacked, const int8_t *codes,
                      size_t padded, bool fresh, int32_t *sums);

#define TILE(rows)                                                                                                 \
  EDGE_APART void tile_##rows(size_t quads, size_t flush, const uint8_t *unpacked, const int8_t *codes, size_t padded, \
                              bool fresh, int32_t *sums) {                                                         \
    tile(rows, quads, flush, unpacked, codes, padded, fresh, sums);                                                \
  }
TILE(1)
TILE(2)
TILE(3)
TILE(4)
TILE(5)
TILE(6)
#undef TILE

/* Unpacks the outputs 16 * field .. 16 * field + 15. */
EDGE_INLINE void unpack(size_t quads, size_t field, const uint8_t *panel, uint8_t *unpacked) {
  const __m256i mask = _mm256_set1_epi8(0x03);
  const __m128i shift = _mm_cvtsi32_si128((int)(2 * field));
  for (size_t i = 0; i < 2 * quads; ++i) {
    const __m256i w = _mm256_load_si256((const __m256i *)(panel + 32 * i));
    _mm256_store_si256((__m256i *)(unpacked + 32 * i), _mm256_and_si256(_mm256_srl_epi16(w, shift), mask));
  }
}

/* The sums of all rows and the first `count` outputs of a panel. */
EDGE_APART void panel_sums(const edge_qd8_gemm *gemm, size_t count, size_t flush, const uint8_t *panel, int32_t *sums) {
  const size_t quads = quads_of(gemm->k), padded = gemm->padded;
  _Alignas(64) uint8_t unpacked[UNPACKED_QUADS * 64];
  for (size_t begin = 0; begin < quads; begin += UNPACKED_QUADS) {
    const size_t some = quads - begin < UNPACKED_QUADS ? quads - begin : UNPACKED_QUADS;
    for (size_t field = 0; 16 * field < count; ++field) {
      const uint8_t *from = panel + begin * QUAD_BYTES;
      switch (field) {
        case 0: unpack(some, 0, from, unpacked); break;
        case 1: unpack(some, 1, from, unpacked); break;
        case 2: unpack(some, 2, from, unpacked); break;
        default: unpack(some, 3, from, unpacked); break;
      }
      for (size_t r = 0; r < gemm->rows; r += TILE_ROWS) {
        const int8_t *codes = gemm->codes + r * padded + 4 * begin;
        int32_t *to = sums + r * EDGE_PANEL + 16 * field;
        switch (gemm->rows - r) {
          case 1: tile_1(some, flush, unpacked, codes, padded, begin == 0, to); break;
          case 2: tile_2(some, flush, unpacked, codes, padded, begin == 0, to); break;
          case 3: tile_3(some, flush, unpacked, codes, padded, begin == 0, to); break;
          case 4: tile_4(some, flush, unpacked, codes, padded, begin == 0, to); break;
          case 5: tile_5(some, flush, unpacked, codes, padded, begin == 0, to); break;
          default: tile_6(some, flush, unpacked, codes, padded, begin == 0, to); break;
        }
      }
    }
  }
}
