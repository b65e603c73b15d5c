/* SHA-256 (FIPS 180-4), for the check of a file before anything in it is read.
 *
 *   edge_sha256 hash;
 *   edge_sha256_start(&hash);
 *   edge_sha256_add(&hash, bytes, count);      as often as there are pieces
 *   edge_sha256_finish(&hash, digest);
 */
#ifndef EDGE_SHA256_H
#define EDGE_SHA256_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { EDGE_SHA256_BYTES = 32, EDGE_SHA256_BLOCK = 64 };

typedef struct edge_sha256 {
  uint32_t state[8];
  uint64_t bytes;                   /* added so far */
  uint8_t block[EDGE_SHA256_BLOCK]; /* the last `bytes` % EDGE_SHA256_BLOCK of them */
} edge_sha256;

void edge_sha256_start(edge_sha256 *hash);
/* `data` may be NULL where `count` is 0. */
void edge_sha256_add(edge_sha256 *hash, const void *data, size_t count);
/* `hash` must be started again before it is used again. */
void edge_sha256_finish(edge_sha256 *hash, uint8_t digest[EDGE_SHA256_BYTES]);

#ifdef __cplusplus
}
#endif
#endif
