/* Kernels for Cortex-M3: tables of sums (micro/trits.h) by Thumb-2. */
#ifndef EDGE_KERNELS_ARMV7M_H
#define EDGE_KERNELS_ARMV7M_H

#include "kernels/micro/trits.h"

#if defined(EDGE_HAS_TRITS) && defined(__thumb__) && EDGE_TRITS_TABLES == 8
#define EDGE_HAS_ARMV7M 1
extern const edge_kernels edge_kernels_armv7m;
#endif
#endif
