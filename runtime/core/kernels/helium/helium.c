/* The table of the kernels for Helium. */
#include "kernels/helium/helium.h"

#if defined(EDGE_HAS_HELIUM)

#include "kernels/micro/micro.h"

const edge_kernels edge_kernels_helium =
    EDGE_MICRO_TABLE("helium", edge_qd8_f32_qc2w_gemm__helium, EDGE_LAYOUT_PLANES, NULL);

#endif
