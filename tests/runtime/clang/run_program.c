/* Runs a program once: run_program PROGRAM INPUTS OUTPUTS [ISA], with the best kernels or those of ISA.
 *
 * INPUTS holds the bytes of all inputs, one after the other; OUTPUTS gets those of all outputs.
 */
#include <stdio.h>
#include <stdlib.h>

#include "edge_core.h"
#include "kernels/kernels.h"

static void fail(const char *what, const char *why) {
  fprintf(stderr, "run_program: %s: %s\n", what, why);
  exit(1);
}

static void *read_file(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  if (file == NULL || fseek(file, 0, SEEK_END) != 0) fail(path, "cannot be read");
  *size = (size_t)ftell(file);
  rewind(file);
  void *bytes = aligned_alloc(EDGE_PACK_ALIGN, (*size / EDGE_PACK_ALIGN + 1) * EDGE_PACK_ALIGN);
  if (bytes == NULL || fread(bytes, 1, *size, file) != *size) fail(path, "cannot be read");
  fclose(file);
  return bytes;
}

int main(int count, char **arguments) {
  if (count != 4 && count != 5) fail("usage", "run_program PROGRAM INPUTS OUTPUTS [ISA]");
  const edge_options options = {.kernels = count == 5 ? edge_kernels_named(arguments[4]) : edge_kernels_at(0)};
  if (options.kernels == NULL) fail(arguments[4], "not among the kernels of this machine");
  size_t size;
  void *program = read_file(arguments[1], &size);
  edge_requirements need;
  edge_error error;
  edge_model *model;
  if (edge_measure(program, size, &options, &need, &error) != EDGE_OK) fail(arguments[1], error.text);
  void *block = aligned_alloc(EDGE_PACK_ALIGN, (need.total_bytes / EDGE_PACK_ALIGN + 1) * EDGE_PACK_ALIGN);
  if (block == NULL) fail(arguments[1], "no memory");
  if (edge_prepare(program, size, &options, block, need.total_bytes, &model, &error) != EDGE_OK) {
    fail(arguments[1], error.text);
  }

  FILE *inputs = fopen(arguments[2], "rb"), *outputs = fopen(arguments[3], "wb");
  if (inputs == NULL || outputs == NULL) fail(arguments[2], "cannot be opened");
  for (size_t i = 0; i < edge_input_count(model); ++i) {
    edge_tensor *input = edge_input(model, i);
    if (fread(input->data, 1, input->bytes, inputs) != input->bytes) fail(arguments[2], "too short");
  }
  if (edge_run(model, NULL, NULL, &error) != EDGE_OK) fail(arguments[1], error.text);
  for (size_t i = 0; i < edge_output_count(model); ++i) {
    const edge_tensor *output = edge_output(model, i);
    if (fwrite(output->data, 1, output->bytes, outputs) != output->bytes) fail(arguments[3], "cannot be written");
  }
  if (fclose(outputs) != 0) fail(arguments[3], "cannot be written");
  fclose(inputs);
  free(block);
  free(program);
  return 0;
}
