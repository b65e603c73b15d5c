/* Kernels for 32-bit RISC-V: tables of sums (micro/trits.h). */
#ifndef EDGE_KERNELS_RV32_H
#define EDGE_KERNELS_RV32_H

#include "kernels/micro/trits.h"

#if defined(EDGE_HAS_TRITS) && defined(__riscv)
#define EDGE_HAS_RV32 1
extern const edge_kernels edge_kernels_rv32;
#endif
#endif
