/* Which kernels this machine runs: those that were built for its architecture and whose instructions it has. */
#include "kernels/kernels.h"

#include <string.h>

#if defined(__x86_64__)
#include "kernels/avx2/avx2.h"
#include "kernels/avx512vnni/avx512vnni.h"
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
#endif

/* Best first. */
static const candidate candidates[] = {
#if defined(__x86_64__)
    {&edge_kernels_avx512vnni, has_avx512vnni},
    {&edge_kernels_avx2, has_avx2},
#endif
    {&edge_kernels_scalar, always},
};

const edge_kernels *edge_kernels_at(size_t index) {
  for (size_t i = 0; i < sizeof candidates / sizeof candidates[0]; ++i) {
    if (candidates[i].runs() && index-- == 0) return candidates[i].kernels;
  }
  return NULL;
}

const edge_kernels *edge_kernels_named(const char *isa) {
  const edge_kernels *kernels;
  for (size_t i = 0; (kernels = edge_kernels_at(i)) != NULL; ++i) {
    if (strcmp(kernels->isa, isa) == 0) return kernels;
  }
  return NULL;
}
