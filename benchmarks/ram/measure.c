/* What programs need of a 32-bit machine: one line a file, "total state arena scratch packed" in bytes, after the
 * program is prepared and run once in a block of just that size. Scalar kernels, one thread. */
#include <stdio.h>
#include <stdlib.h>

#include "edge_core.h"
#include "kernels/kernels.h"

static void *read_file(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  if (file == NULL || fseek(file, 0, SEEK_END) != 0) return NULL;
  const long bytes = ftell(file);
  if (bytes <= 0) return NULL;
  rewind(file);
  *size = (size_t)bytes;
  void *data = aligned_alloc(EDGE_PACK_ALIGN, (*size + EDGE_PACK_ALIGN - 1) / EDGE_PACK_ALIGN * EDGE_PACK_ALIGN);
  if (data == NULL || fread(data, 1, *size, file) != *size) return NULL;
  fclose(file);
  return data;
}

int main(int count, char **paths) {
  const edge_options options = {.kernels = &edge_kernels_scalar};
  for (int i = 1; i < count; ++i) {
    size_t size = 0;
    const void *program = read_file(paths[i], &size);
    edge_requirements need;
    edge_error error;
    edge_model *model;
    if (program == NULL) return 1;
    if (edge_measure(program, size, &options, &need, &error) != EDGE_OK) return fputs(error.text, stderr), 1;
    const size_t room = (need.total_bytes + EDGE_PACK_ALIGN - 1) / EDGE_PACK_ALIGN * EDGE_PACK_ALIGN;
    void *block = aligned_alloc(EDGE_PACK_ALIGN, room);
    if (block == NULL) return 1;
    if (edge_prepare(program, size, &options, block, need.total_bytes, &model, &error) != EDGE_OK ||
        edge_run(model, NULL, NULL, &error) != EDGE_OK) {
      return fputs(error.text, stderr), 1;
    }
    printf("%zu %zu %zu %zu %zu\n", need.total_bytes, need.state_bytes, need.arena_bytes, need.scratch_bytes,
           need.packed_bytes);
  }
  return 0;
}
