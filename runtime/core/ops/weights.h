/* Ternary weights in whichever layout the program has them (kernels/layouts.h), for the kernels of this machine.
 *
 * Kernels read their own layout in place. Where they repack rows, or want rows, another layout is made row-major first, in
 * the memory of repacked weights; bare metal has no memory for that, and refuses other layouts. Rows always run: where
 * the kernels do not take them, on the scalar one. */
#ifndef EDGE_WEIGHTS_H
#define EDGE_WEIGHTS_H

#include "kernels/layouts.h"
#include "ops/args.h"

/* The layout that the shape of `packed` names; other than rows only for `ternary` weights. */
edge_status edge_take_layout(edge_call *call, const edge_tensor *packed, bool ternary, int *layout);
/* Firmware for a model in its board's own layout leaves the scalar kernels out, and refuses rows where they would run. */
#if defined(EDGE_BARE_METAL) && defined(EDGE_OWN_LAYOUT_ONLY)
#define EDGE_SCALAR_WHERE_UNREAD 0
#else
#define EDGE_SCALAR_WHERE_UNREAD 1
#endif
/* The layout of a checked tensor. */
static inline int edge_layout_of(const edge_tensor *packed) { return packed->rank - 2; }

/* Reserves the memory of n rows of k weights: `repacked` bytes for a kernel that packs (else 0), which reads `wanted`. */
edge_status edge_reserve_weights(edge_call *call, const edge_tensor *packed, size_t n, size_t k, int wanted,
                                 size_t repacked);
/* The rows that a kernel's `pack` reads; also where `repacked` is 0 it must be called by `pack`. */
const void *edge_weight_rows(edge_call *call, const edge_tensor *packed, size_t n, size_t k, size_t repacked);
/* Whether the kernel that wants this runs; else the scalar one does. Both read call->packed, or the tensor if NULL. */
bool edge_kernel_reads(const edge_call *call, const edge_tensor *packed, int wanted, bool packs, size_t repacked);

#endif
