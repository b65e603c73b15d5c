/* Kernels for Cortex-M0 and M0+: tables of sums (micro/trits.h) by Thumb-1. */
#ifndef EDGE_KERNELS_ARMV6M_H
#define EDGE_KERNELS_ARMV6M_H

#include "kernels/micro/trits.h"

#if defined(EDGE_HAS_TRITS) && defined(__thumb__) && EDGE_TRITS_TABLES == 4
#define EDGE_HAS_ARMV6M 1
extern const edge_kernels edge_kernels_armv6m;
#endif
#endif
