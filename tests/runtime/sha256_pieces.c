/* sha256-pieces N: SHA-256 of what is read from standard input, added N bytes at a time; 0: of an empty message. */
#include <stdio.h>
#include <stdlib.h>

#include "sha256.h"

int main(int count, char **words) {
  static unsigned char bytes[1 << 16];
  const size_t piece = count == 2 ? strtoul(words[1], NULL, 10) : sizeof bytes + 1;
  if (piece > sizeof bytes) return 2;
  edge_sha256 hash;
  uint8_t digest[EDGE_SHA256_BYTES];
  edge_sha256_start(&hash);
  edge_sha256_add(&hash, NULL, 0);
  for (size_t got; piece > 0 && (got = fread(bytes, 1, piece, stdin)) > 0;) edge_sha256_add(&hash, bytes, got);
  edge_sha256_finish(&hash, digest);
  for (int i = 0; i < EDGE_SHA256_BYTES; ++i) printf("%02x", digest[i]);
  return 0;
}
