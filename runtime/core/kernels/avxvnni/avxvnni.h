/* The AVX-VNNI kernels that have files of their own: vpdpbusd in 256-bit registers, for CPUs without AVX-512.
 *
 * Built with EDGE_AVXVNNI_EVEX defined they are encoded as AVX-512 VNNI has the instruction, for tests on CPUs that
 * have only that one: the table then runs there, under the same name.
 */
#ifndef EDGE_KERNELS_AVXVNNI_H
#define EDGE_KERNELS_AVXVNNI_H

#include "kernels/simd/entries.h"

#if defined(__x86_64__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define EDGE_HAS_AVXVNNI /* the compiler */
#endif

#if defined(EDGE_AVXVNNI_EVEX)
#define EDGE_AVXVNNI "avx2,avx512f,avx512vl,avx512vnni"
#define EDGE_DPBUSD _mm256_dpbusd_epi32
#else
#define EDGE_AVXVNNI "avx2,avxvnni"
#define EDGE_DPBUSD _mm256_dpbusd_avx_epi32
#endif

/* sum += products of unsigned u and signed s, four a lane. The sum stays in its register, one of the first sixteen, and
 * the loop in this order: compilers would copy and spill sums. */
#define EDGE_ADD_DOT(sum, u, s)         \
  do {                                  \
    sum = EDGE_DPBUSD(sum, u, s);       \
    __asm__ volatile("" : "+x"(sum));   \
  } while (0)

extern const edge_kernels edge_kernels_avxvnni;

EDGE_DECLARE_GEMM(qd8_f32_qc2w, avxvnni)
EDGE_DECLARE_GEMM(qd8_f32_qc4w, avxvnni)
EDGE_DECLARE_GEMM(qd8_f32_qc8w, avxvnni)
EDGE_DECLARE_CONV2D(avxvnni)
EDGE_DECLARE_ATTENTION(avxvnni)

#endif
