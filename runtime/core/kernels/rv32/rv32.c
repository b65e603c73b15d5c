/* The table of the kernels for 32-bit RISC-V. */
#include "kernels/rv32/rv32.h"

#if defined(EDGE_HAS_RV32)

#include "kernels/micro/micro.h"

const edge_kernels edge_kernels_rv32 =
    EDGE_MICRO_TABLE("rv32", edge_qd8_f32_qc2w_gemm__trits, EDGE_LAYOUT_TRITS, edge_trits_scratch);

#endif
