/* Which kernels this machine runs: those that were built for its architecture and whose instructions it has. */
#include "kernels/kernels.h"

#include <string.h>

typedef struct candidate {
  const edge_kernels *kernels;
  bool (*runs)(void);
} candidate;

static bool always(void) { return true; }

/* Best first. */
static const candidate candidates[] = {
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
