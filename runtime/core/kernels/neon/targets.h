/* EDGE_NEON_BEGIN .. EDGE_NEON_END: what lies between may use NEON, which 32-bit ARM has to be asked for; likewise
 * EDGE_DOTPROD_* and EDGE_I8MM_*. Where the whole build has an extension nothing is asked for, because functions of a
 * lesser target could not have the build's other functions inlined. */
#ifndef EDGE_KERNELS_NEON_TARGETS_H
#define EDGE_KERNELS_NEON_TARGETS_H

#include <arm_neon.h>

#include "kernels/simd/target.h"

/* After `pointer` was moved on: keeps the loads that follow from being moved up to here, because a compiler that fetches
 * all weights of a loop at once has no registers left for the sums; and keeps it from turning the pointer into another
 * plus an offset, so that the load before moves it on for nothing. */
#define EDGE_KEEP_ORDER(pointer) __asm__ volatile("" : "+r"(pointer) : : "memory")

#if defined(__aarch64__)
#define EDGE_NEON_BEGIN
#define EDGE_NEON_END
#else
#if defined(__clang__)
#define EDGE_NEON_BEGIN EDGE_TARGET_BEGIN("neon")
#else
#define EDGE_NEON_BEGIN EDGE_TARGET_BEGIN("fpu=neon")
#endif
#define EDGE_NEON_END EDGE_TARGET_END
#endif

#if defined(__ARM_FEATURE_DOTPROD)
#define EDGE_DOTPROD_BEGIN
#define EDGE_DOTPROD_END
#else
#define EDGE_DOTPROD_BEGIN EDGE_TARGET_BEGIN("arch=armv8.2-a+dotprod")
#define EDGE_DOTPROD_END EDGE_TARGET_END
#endif

#if defined(__ARM_FEATURE_DOTPROD) && defined(__ARM_FEATURE_MATMUL_INT8)
#define EDGE_I8MM_BEGIN
#define EDGE_I8MM_END
#else
#define EDGE_I8MM_BEGIN EDGE_TARGET_BEGIN("arch=armv8.2-a+dotprod+i8mm")
#define EDGE_I8MM_END EDGE_TARGET_END
#endif

#endif
