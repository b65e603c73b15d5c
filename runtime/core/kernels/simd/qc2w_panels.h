/* 2-bit weights as the kernels of x86-64 take them.
 *
 * Layout N64K4: a panel holds 64 outputs, quad by quad of k; a quad is 64 bytes. Byte b is of the outputs b / 4,
 * 16 + b / 4, 32 + b / 4 and 48 + b / 4 (two bits each, the first lowest), at k = 4 * quad + b % 4. Outputs beyond n
 * and values beyond k have code 0.
 */
#ifndef EDGE_KERNELS_SIMD_QC2W_PANELS_H
#define EDGE_KERNELS_SIMD_QC2W_PANELS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/kernels.h"

#define QUAD_BYTES 64

static inline size_t quads_of(size_t k) { return (k + 3) / 4; }
static inline size_t panels_bytes(size_t n, size_t k) {
  return (n + EDGE_PANEL - 1) / EDGE_PANEL * quads_of(k) * QUAD_BYTES;
}

/* From the file's layout to panels; returns the largest code, or 2 where it is less. */
static uint32_t pack_panels(size_t n, size_t k, const uint8_t *weight, uint8_t *panels) {
  const size_t quads = quads_of(k);
  const uint8_t last = k % 4 == 0 ? 0xFF : (uint8_t)((1u << 2 * (k % 4)) - 1); /* the padding of a row is anything */
  uint32_t largest = 2;
  memset(panels, 0, panels_bytes(n, k));
  for (size_t o = 0; o < n; ++o) {
    uint8_t *to = panels + o / EDGE_PANEL * quads * QUAD_BYTES + o % 16 * 4;
    const unsigned shift = (unsigned)(o % EDGE_PANEL / 16 * 2);
    for (size_t q = 0; q < quads; ++q, to += QUAD_BYTES) {
      const uint32_t byte = *weight++ & (q + 1 == quads ? last : 0xFF);
      if (byte & byte >> 1 & 0x55) largest = 3;
      uint32_t four = (byte | byte << 12) & 0x000F000Fu;
      four = (four | four << 6) & 0x03030303u;
      uint32_t word;
      memcpy(&word, to, sizeof word);
      word |= four << shift;
      memcpy(to, &word, sizeof word);
    }
  }
  return largest;
}

#endif
