/* SHA-256 in plain C: names as in FIPS 180-4, section 6.2. */
#include "sha256.h"

#include <string.h>

static const uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t rotr(uint32_t x, int by) { return x >> by | x << (32 - by); }

static uint32_t big_endian(const uint8_t *bytes) {
  return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

static void put_big_endian(uint8_t *bytes, uint32_t value) {
  for (int i = 0; i < 4; ++i) bytes[i] = (uint8_t)(value >> (24 - 8 * i));
}

/* One round: `h` becomes the next `a`, `d` the next `e`; the caller renames the variables instead of moving them. */
#define ROUND(a, b, c, d, e, f, g, h, t)                                                                     \
  do {                                                                                                       \
    h += (rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25)) + ((e & (f ^ g)) ^ g) + K[t] + w[t];                       \
    d += h;                                                                                                  \
    h += (rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22)) + ((a & b) | (c & (a | b)));                               \
  } while (0)

static void compress(uint32_t state[8], const uint8_t *block) {
  uint32_t w[64];
  for (int t = 0; t < 16; ++t) w[t] = big_endian(block + 4 * t);
  for (int t = 16; t < 64; ++t) {
    const uint32_t before = w[t - 15], last = w[t - 2];
    w[t] = w[t - 16] + (rotr(before, 7) ^ rotr(before, 18) ^ before >> 3) + w[t - 7] +
           (rotr(last, 17) ^ rotr(last, 19) ^ last >> 10);
  }
  uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
  uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
  for (int t = 0; t < 64; t += 8) {
    ROUND(a, b, c, d, e, f, g, h, t);
    ROUND(h, a, b, c, d, e, f, g, t + 1);
    ROUND(g, h, a, b, c, d, e, f, t + 2);
    ROUND(f, g, h, a, b, c, d, e, t + 3);
    ROUND(e, f, g, h, a, b, c, d, t + 4);
    ROUND(d, e, f, g, h, a, b, c, t + 5);
    ROUND(c, d, e, f, g, h, a, b, t + 6);
    ROUND(b, c, d, e, f, g, h, a, t + 7);
  }
  state[0] += a;
  state[1] += b;
  state[2] += c;
  state[3] += d;
  state[4] += e;
  state[5] += f;
  state[6] += g;
  state[7] += h;
}

void edge_sha256_start(edge_sha256 *hash) {
  static const uint32_t first[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  memcpy(hash->state, first, sizeof first);
  hash->bytes = 0;
}

void edge_sha256_add(edge_sha256 *hash, const void *data, size_t count) {
  const uint8_t *from = data;
  const size_t held = (size_t)(hash->bytes % EDGE_SHA256_BLOCK);
  hash->bytes += count;
  if (held > 0) {
    const size_t room = EDGE_SHA256_BLOCK - held, taken = count < room ? count : room;
    if (taken > 0) memcpy(hash->block + held, from, taken);
    if (taken < room) return;
    compress(hash->state, hash->block);
    from += taken;
    count -= taken;
  }
  for (; count >= EDGE_SHA256_BLOCK; from += EDGE_SHA256_BLOCK, count -= EDGE_SHA256_BLOCK) {
    compress(hash->state, from);
  }
  if (count > 0) memcpy(hash->block, from, count);
}

void edge_sha256_finish(edge_sha256 *hash, uint8_t digest[EDGE_SHA256_BYTES]) {
  const uint64_t bits = hash->bytes * 8;
  static const uint8_t padding[EDGE_SHA256_BLOCK] = {0x80};
  const size_t held = (size_t)(hash->bytes % EDGE_SHA256_BLOCK);
  uint8_t length[8];
  put_big_endian(length, (uint32_t)(bits >> 32));
  put_big_endian(length + 4, (uint32_t)bits);
  edge_sha256_add(hash, padding, (held < 56 ? 56 : 120) - held);
  edge_sha256_add(hash, length, sizeof length);
  for (int i = 0; i < 8; ++i) put_big_endian(digest + 4 * i, hash->state[i]);
}
