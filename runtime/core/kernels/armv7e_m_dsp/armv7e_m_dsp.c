/* The table of the kernels for Cortex-M with the DSP extension. */
#include "kernels/armv7e_m_dsp/armv7e_m_dsp.h"

#if defined(EDGE_HAS_ARMV7E_M_DSP)

#include "kernels/micro/micro.h"

const edge_kernels edge_kernels_armv7e_m_dsp = {
    .isa = "armv7e_m_dsp",
#if defined(__ARM_FP)
    .f32_qd8_quantize = edge_f32_qd8_quantize__armv7e_m_dsp,
    .f32_qd8_quantize_columns = edge_f32_qd8_quantize_columns__armv7e_m_dsp,
#else
    .f32_qd8_quantize = edge_f32_qd8_quantize__scalar,
    .f32_qd8_quantize_columns = edge_f32_qd8_quantize_columns__scalar,
#endif
    .qd8_f32_qc2w = {.run = edge_qd8_f32_qc2w_gemm__armv7e_m_dsp, .layout = EDGE_LAYOUT_PAIRS},
    EDGE_MICRO_SCALAR_ENTRIES,
};

#endif
