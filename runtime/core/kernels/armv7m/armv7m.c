/* The table of the kernels for Cortex-M3. */
#include "kernels/armv7m/armv7m.h"

#if defined(EDGE_HAS_ARMV7M)

#include "kernels/micro/micro.h"

const edge_kernels edge_kernels_armv7m =
    EDGE_MICRO_TABLE("armv7m", edge_qd8_f32_qc2w_gemm__trits, EDGE_LAYOUT_TRITS, edge_trits_scratch);

#endif
