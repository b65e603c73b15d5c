/* The scale of values on a microcontroller, from the largest of their bits. */
#ifndef EDGE_KERNELS_MICRO_QUANTIZE_H
#define EDGE_KERNELS_MICRO_QUANTIZE_H

#include "kernels/micro/micro.h"

#if defined(EDGE_BARE_METAL)

#include <string.h>

/* The scale for values the largest of which has these doubled bits; false where the scalar kernel must see to it. */
static inline bool edge_micro_scale_of(uint32_t doubled, edge_row *row) {
  if (doubled >= EDGE_MICRO_LARGEST) return false;
  const uint32_t bits = doubled >> 1;
  float amax;
  memcpy(&amax, &bits, sizeof amax);
  amax = amax > 1e-5f ? amax : 1e-5f;
  row->scale = (1.0f / amax) * 127.0f;
  row->step = 1.0f / row->scale;
  return true;
}

#endif
#endif
