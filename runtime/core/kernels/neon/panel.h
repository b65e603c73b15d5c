/* The packed weights of the NEON kernels, for EDGE_BITS (2, 4 or 8) and EDGE_GROUP (4, 8 or 16) of the including file.
 *
 * A register of unpacked weights holds EDGE_GROUP values of k of 16 / EDGE_GROUP outputs: what one SDOT (4), SMMLA (8)
 * or pair of SMLAL (16) takes. Four registers, a block, are multiplied at a time: BLOCK outputs.
 *
 * Packed, a byte has the codes of FIELDS = 8 / EDGE_BITS outputs, the first in its lowest bits, and a register's worth
 * of bytes unpacks into FIELDS registers, of blocks that lie far apart: in
 *
 *   packed[panel][v][group of k][register 0 .. 3][byte]      v < SETS = blocks in a panel / FIELDS
 *
 * field f belongs to block f * SETS + v. With 8 bits nothing is unpacked. Outputs beyond n and values beyond k, up to a
 * multiple of EDGE_ROW_ALIGN, meet codes of activations that are zero or sums that nobody reads, so they may be
 * anything.
 */
#include <string.h>

#include "kernels/neon/targets.h"

enum {
  GROUP = EDGE_GROUP,
  FIELDS = 8 / EDGE_BITS,
  OUTPUTS = 16 / GROUP, /* of a register */
  BLOCK = 4 * OUTPUTS,
  BLOCKS = EDGE_PANEL / BLOCK,
  SETS = BLOCKS / FIELDS,
  BLOCK_BYTES = 64, /* of one group of k */
};

static inline size_t depth_of(size_t k) { return (k + EDGE_ROW_ALIGN - 1) / EDGE_ROW_ALIGN * EDGE_ROW_ALIGN; }

static inline size_t panel_bytes_of(size_t k) { return depth_of(k) * EDGE_PANEL / FIELDS; }

static inline size_t packed_bytes(size_t n, size_t k) { return (n + EDGE_PANEL - 1) / EDGE_PANEL * panel_bytes_of(k); }

/* The codes of values 4 * quad .. 4 * quad + 3 of a row, a byte each, the first lowest. */
static inline uint32_t four_codes(const uint8_t *row, size_t row_bytes, size_t quad) {
  const size_t bytes = EDGE_BITS / 2; /* that hold four codes; the last of a row may be missing */
  uint8_t own[4] = {0};
  for (size_t i = 0; i < bytes && quad * bytes + i < row_bytes; ++i) own[i] = row[quad * bytes + i];
  uint32_t word = own[0] | (uint32_t)own[1] << 8 | (uint32_t)own[2] << 16 | (uint32_t)own[3] << 24;
  if (EDGE_BITS == 4) word = (word | word << 8) & 0x00FF00FFu;
  if (EDGE_BITS == 2) word = (word | word << 12) & 0x000F000Fu;
  if (EDGE_BITS == 4) word = (word | word << 4) & 0x0F0F0F0Fu;
  if (EDGE_BITS == 2) word = (word | word << 6) & 0x03030303u;
  return word;
}

static inline void pack(size_t n, size_t k, const uint8_t *weight, void *packed) {
  const size_t row_bytes = (k * EDGE_BITS + 7) / 8, groups = depth_of(k) / GROUP;
  memset(packed, 0, packed_bytes(n, k));
  for (size_t o = 0; o < n; ++o, weight += row_bytes) {
    const size_t field = o % EDGE_PANEL / (EDGE_PANEL / FIELDS), at = o % (EDGE_PANEL / FIELDS);
    uint8_t *to = (uint8_t *)packed + o / EDGE_PANEL * panel_bytes_of(k) + at / BLOCK * groups * BLOCK_BYTES +
                  at % BLOCK * GROUP;
    for (size_t quad = 0; quad < (k + 3) / 4; ++quad) {
      uint8_t *four = to + quad / (GROUP / 4) * BLOCK_BYTES + quad % (GROUP / 4) * 4;
      uint32_t word;
      memcpy(&word, four, sizeof word);
      word |= four_codes(weight, row_bytes, quad) << (EDGE_BITS * field);
      memcpy(four, &word, sizeof word);
    }
  }
}

EDGE_NEON_BEGIN

typedef struct four_registers {
  int8x16_t val[4];
} four_registers;

EDGE_INLINE four_registers load_block(const int8_t *from) {
#if defined(__aarch64__)
  const int8x16x4_t w = vld1q_s8_x4(from);
  return (four_registers){{w.val[0], w.val[1], w.val[2], w.val[3]}};
#else
  return (four_registers){{vld1q_s8(from), vld1q_s8(from + 16), vld1q_s8(from + 32), vld1q_s8(from + 48)}};
#endif
}

#if EDGE_BITS < 8

/* One register of field f. */
EDGE_INLINE int8x16_t field_of(int8x16_t bytes, const int f) {
  const uint8x16_t packed = vreinterpretq_u8_s8(bytes);
#if EDGE_BITS == 2
  const uint8x16_t mask = vdupq_n_u8(3);
  switch (f) { /* the shift is an immediate */
    case 0: return vreinterpretq_s8_u8(vandq_u8(packed, mask));
    case 1: return vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(packed, 2), mask));
    case 2: return vreinterpretq_s8_u8(vandq_u8(vshrq_n_u8(packed, 4), mask));
    default: return vreinterpretq_s8_u8(vshrq_n_u8(packed, 6));
  }
#else
  return vreinterpretq_s8_u8(f == 0 ? vandq_u8(packed, vdupq_n_u8(15)) : vshrq_n_u8(packed, 4));
#endif
}

EDGE_INLINE void store_block(int8_t *to, four_registers w) {
#if defined(__aarch64__)
  const int8x16x4_t all = {{w.val[0], w.val[1], w.val[2], w.val[3]}};
  vst1q_s8_x4(to, all);
#else
  for (size_t i = 0; i < 4; ++i) vst1q_s8(to + 16 * i, w.val[i]);
#endif
}

#endif

EDGE_NEON_END
