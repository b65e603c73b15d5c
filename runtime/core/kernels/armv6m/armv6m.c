/* The table of the kernels for Cortex-M0. */
#include "kernels/armv6m/armv6m.h"

#if defined(EDGE_HAS_ARMV6M)

#include "kernels/micro/micro.h"

const edge_kernels edge_kernels_armv6m =
    EDGE_MICRO_TABLE("armv6m", edge_qd8_f32_qc2w_gemm__trits, EDGE_LAYOUT_TRITS, edge_trits_scratch);

#endif
