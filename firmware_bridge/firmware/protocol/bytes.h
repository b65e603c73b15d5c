/* Little-endian numbers in frames, manifests and records, at any alignment. */
#ifndef EDGE_BYTES_H
#define EDGE_BYTES_H

#include <stdint.h>

static inline uint16_t edge_get16(const uint8_t *at) { return (uint16_t)(at[0] | at[1] << 8); }

static inline uint32_t edge_get32(const uint8_t *at) {
  return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static inline uint64_t edge_get64(const uint8_t *at) { return edge_get32(at) | (uint64_t)edge_get32(at + 4) << 32; }

static inline void edge_put16(uint8_t *at, uint16_t value) {
  at[0] = (uint8_t)value;
  at[1] = (uint8_t)(value >> 8);
}

static inline void edge_put32(uint8_t *at, uint32_t value) {
  edge_put16(at, (uint16_t)value);
  edge_put16(at + 2, (uint16_t)(value >> 16));
}

#endif
