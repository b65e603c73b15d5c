/* Which kernels this machine runs: those that were built for its architecture and whose instructions it has. On bare
 * metal the compiler's options tell, and there is one table. */
#include "kernels/kernels.h"

#include <string.h>

#if defined(EDGE_BARE_METAL)

#include "kernels/armv6m/armv6m.h"
#include "kernels/armv7e_m_dsp/armv7e_m_dsp.h"
#include "kernels/armv7m/armv7m.h"
#include "kernels/helium/helium.h"
#include "kernels/rv32/rv32.h"

const edge_kernels *edge_kernels_at(size_t index) {
#if defined(EDGE_HAS_ARMV7E_M_DSP)
  return index == 0 ? &edge_kernels_armv7e_m_dsp : NULL;
#elif defined(EDGE_HAS_HELIUM)
  return index == 0 ? &edge_kernels_helium : NULL;
#elif defined(EDGE_HAS_ARMV7M)
  return index == 0 ? &edge_kernels_armv7m : NULL;
#elif defined(EDGE_HAS_ARMV6M)
  return index == 0 ? &edge_kernels_armv6m : NULL;
#elif defined(EDGE_HAS_RV32)
  return index == 0 ? &edge_kernels_rv32 : NULL;
#else
  return index == 0 ? &edge_kernels_scalar : NULL;
#endif
}

#else

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "kernels/neon/neon.h"

#if defined(__x86_64__)
#include "kernels/avx2/avx2.h"
#include "kernels/avx512vnni/avx512vnni.h"
#include "kernels/avxvnni/avxvnni.h"
#endif
#if defined(EDGE_HAS_NEON) && defined(__linux__)
#include <sys/auxv.h>
#endif

typedef struct candidate {
  const edge_kernels *kernels;
  bool (*runs)(void);
} candidate;

static bool always(void) { return true; }

#if defined(__x86_64__)
static bool has_avx2(void) { return __builtin_cpu_supports("avx2"); }
static bool has_avx512vnni(void) {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
}
#if defined(EDGE_AVXVNNI_EVEX)
static bool has_avxvnni(void) { return has_avx512vnni(); }
#elif defined(EDGE_HAS_AVXVNNI)
/* CPUID 7.1 EAX bit 4, and AVX2, which tells that the system saves the registers; compilers learn the name late. */
static bool has_avxvnni(void) {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (!has_avx2() || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || eax < 1) return false;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax >> 4 & 1) != 0;
}
#endif
#endif

#if defined(EDGE_HAS_NEON)
#if !defined(__aarch64__)
static bool has_neon(void) {
#if defined(__linux__)
  return getauxval(AT_HWCAP) >> 12 & 1; /* HWCAP_NEON */
#else
  return false;
#endif
}
#else
static bool has_dotprod(void) {
#if defined(__ARM_FEATURE_DOTPROD)
  return true;
#elif defined(__linux__)
  return getauxval(AT_HWCAP) >> 20 & 1; /* HWCAP_ASIMDDP */
#else
  return false;
#endif
}

static bool has_i8mm(void) {
#if defined(__ARM_FEATURE_MATMUL_INT8)
  return has_dotprod();
#elif defined(__linux__)
  return has_dotprod() && (getauxval(AT_HWCAP2) >> 13 & 1); /* HWCAP2_I8MM */
#else
  return false;
#endif
}
#endif
#endif

/* Best first. */
static const candidate candidates[] = {
#if defined(__x86_64__)
    {&edge_kernels_avx512vnni, has_avx512vnni},
#if defined(EDGE_HAS_AVXVNNI)
    {&edge_kernels_avxvnni, has_avxvnni},
#endif
    {&edge_kernels_avx2, has_avx2},
#endif
#if defined(__aarch64__)
    {&edge_kernels_neon_i8mm, has_i8mm},
    {&edge_kernels_neon_dotprod, has_dotprod},
    {&edge_kernels_neon, always},
#elif defined(EDGE_HAS_NEON)
    {&edge_kernels_neon, has_neon},
#endif
    {&edge_kernels_scalar, always},
};

const edge_kernels *edge_kernels_at(size_t index) {
  for (size_t i = 0; i < sizeof candidates / sizeof candidates[0]; ++i) {
    if (candidates[i].runs() && index-- == 0) return candidates[i].kernels;
  }
  return NULL;
}

#endif

const edge_kernels *edge_kernels_named(const char *isa) {
  const edge_kernels *kernels;
  for (size_t i = 0; (kernels = edge_kernels_at(i)) != NULL; ++i) {
    if (strcmp(kernels->isa, isa) == 0) return kernels;
  }
  return NULL;
}
