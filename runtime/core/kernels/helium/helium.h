/* Kernels for Cortex-M55 and others with the vector extension (Helium): ternary weights in layout `planes`. */
#ifndef EDGE_KERNELS_HELIUM_H
#define EDGE_KERNELS_HELIUM_H

#include "kernels/kernels.h"

#if defined(EDGE_BARE_METAL) && defined(__ARM_FEATURE_MVE)
#define EDGE_HAS_HELIUM 1
extern const edge_kernels edge_kernels_helium;
void edge_qd8_f32_qc2w_gemm__helium(const edge_qd8_gemm *gemm, size_t first, size_t last);
#endif
#endif
