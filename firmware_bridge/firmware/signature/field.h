/* Monocypher's arithmetic modulo 2^255 - 19 with loops in place of its unrolled sums: 2.5 KB less. It is included where
 * Monocypher defines these functions (monocypher_source.py), and has its types, sums, carries and bounds; limbs with odd
 * indices have 25 bits, the others 26. Firmware only checks signatures with them, of which nothing is secret. */
#ifndef EDGE_SIGNATURE_FIELD_H
#define EDGE_SIGNATURE_FIELD_H

/* FE_CARRY */
static void fe_carry(fe h, i64 t[10]) {
  static const u8 order[12] = {0, 4, 1, 5, 2, 6, 3, 7, 4, 8, 9, 0};
  for (size_t n = 0; n < 12; ++n) {
    const size_t i = order[n];
    const unsigned bits = i % 2 == 0 ? 26 : 25;
    const i64 carry = (t[i] + ((i64)1 << (bits - 1))) >> bits;
    t[i] -= carry * ((i64)1 << bits);
    if (i == 9) {
      t[0] += carry * 19;
    } else {
      t[i + 1] += carry;
    }
  }
  for (size_t i = 0; i < 10; ++i) h[i] = (i32)t[i];
}

static void fe_mul_small(fe h, const fe f, i32 g) {
  i64 t[10];
  for (size_t i = 0; i < 10; ++i) t[i] = f[i] * (i64)g;
  fe_carry(h, t);
}

static void fe_mul(fe h, const fe f, const fe g) {
  i64 t[10];
  for (size_t k = 0; k < 10; ++k) {
    t[k] = 0;
    for (size_t i = 0; i < 10; ++i) {
      i32 a = f[i], b = i <= k ? g[k - i] : g[k + 10 - i] * 19; /* 2^255 is 19 */
      if (i % 2 == 1 && k % 2 == 0) a *= 2; /* two limbs of 25 bits */
      t[k] += a * (i64)b;
    }
  }
  fe_carry(h, t);
}

static void fe_sq(fe h, const fe f) { fe_mul(h, f, f); }

#endif
