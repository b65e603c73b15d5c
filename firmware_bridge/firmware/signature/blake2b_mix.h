/* BLAKE2b's twelve rounds with a loop in place of Monocypher's unrolled steps: 1.3 KB less. Included where Monocypher
 * defines blake2b_compress (monocypher_source.py), with its types. */
#ifndef EDGE_SIGNATURE_BLAKE2B_MIX_H
#define EDGE_SIGNATURE_BLAKE2B_MIX_H

static void blake2b_mix(crypto_blake2b_ctx *ctx, const u8 sigma[12][16], int is_last_block) {
  u64 v[16];
  for (size_t i = 0; i < 8; ++i) {
    v[i] = ctx->hash[i];
    v[i + 8] = iv[i];
  }
  v[12] ^= ctx->input_offset[0];
  v[13] ^= ctx->input_offset[1];
  if (is_last_block) v[14] = ~v[14];
  for (size_t round = 0; round < 12; ++round) {
    for (size_t step = 0; step < 8; ++step) {
      const size_t turn = step / 4; /* columns, then diagonals */
      u64 *a = v + step % 4, *b = v + 4 + (step + turn) % 4;
      u64 *c = v + 8 + (step + 2 * turn) % 4, *d = v + 12 + (step + 3 * turn) % 4;
      for (size_t half = 0; half < 2; ++half) {
        *a += *b + ctx->input[sigma[round][2 * step + half]];
        *d = rotr64(*d ^ *a, half == 0 ? 32 : 16);
        *c += *d;
        *b = rotr64(*b ^ *c, half == 0 ? 24 : 63);
      }
    }
  }
  for (size_t i = 0; i < 8; ++i) ctx->hash[i] ^= v[i] ^ v[i + 8];
}

#endif
