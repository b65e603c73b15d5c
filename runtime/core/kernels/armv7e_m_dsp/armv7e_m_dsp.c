/* The table of the kernels for Cortex-M with the DSP extension. */
#include "kernels/armv7e_m_dsp/armv7e_m_dsp.h"

#if defined(EDGE_HAS_ARMV7E_M_DSP)

#include "kernels/micro/micro.h"

const edge_kernels edge_kernels_armv7e_m_dsp =
    EDGE_MICRO_TABLE("armv7e_m_dsp", edge_qd8_f32_qc2w_gemm__armv7e_m_dsp, EDGE_LAYOUT_PAIRS, NULL);

#endif
