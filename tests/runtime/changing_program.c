/* changing-program FILE OFFSET: loads a program of which a byte becomes 1 between the two passes of edge_prepare, as a
 * mapped file may that is being rewritten. Prints "loaded", "loaded with a constant input", or the error. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "plan.h"

static uint8_t *changing;

static edge_status survey_before_the_change(edge_survey *survey, const void *bytes, size_t size,
                                            const edge_options *options, edge_error *error) {
  edge_status status = edge_run_survey(survey, bytes, size, options, error);
  *changing = 1;
  return status;
}

#define edge_run_survey survey_before_the_change
#include "plan.c"

int main(int count, char **words) {
  static _Alignas(64) uint8_t bytes[1 << 16], block[1 << 16];
  FILE *file = count == 3 ? fopen(words[1], "rb") : NULL;
  if (file == NULL) return 2;
  const size_t size = fread(bytes, 1, sizeof bytes, file);
  fclose(file);
  changing = bytes + atoi(words[2]);
  *changing = 0;
  edge_error error = {0};
  edge_model *model;
  if (edge_prepare(bytes, size, NULL, block, sizeof block, &model, &error) != EDGE_OK) {
    puts(error.text);
  } else {
    puts(edge_input(model, 0)->constant ? "loaded with a constant input" : "loaded");
  }
  return 0;
}
