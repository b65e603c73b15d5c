/* fuzz_learn SEED CASES PROGRAM...: learns in exactly the memory that was measured, and loads damaged weights, under
 * sanitizers. Prints what happened; a fault ends it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "learn/learn.h"
#include "sha256.h"

static uint64_t state;

static uint32_t draw(uint32_t below) {
  state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
  return (uint32_t)(state >> 33) % below;
}

static void fail(const char *what, const edge_error *error) {
  fprintf(stderr, "%s: %s\n", what, error->text);
  exit(1);
}

static void *aligned(size_t bytes) {
  const size_t rounded = (bytes + EDGE_PACK_ALIGN - 1) / EDGE_PACK_ALIGN * EDGE_PACK_ALIGN;
  void *block = aligned_alloc(EDGE_PACK_ALIGN, rounded);
  if (block == NULL) exit(2);
  return block;
}

static uint8_t *read_file(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  if (file == NULL || fseek(file, 0, SEEK_END) != 0) exit(2);
  *size = (size_t)ftell(file);
  rewind(file);
  uint8_t *bytes = aligned(*size);
  if (fread(bytes, 1, *size, file) != *size) exit(2);
  fclose(file);
  return bytes;
}

static void fill(edge_model *model) {
  for (size_t i = 0; i < edge_input_count(model); ++i) {
    edge_tensor *input = edge_input(model, i);
    for (size_t j = 0; j < input->bytes / sizeof(float); ++j) {
      ((float *)input->data)[j] = (float)draw(2001) / 1000.0f - 1.0f;
    }
  }
}

/* The digest anew, so that what is behind it is reached. */
static void sign(uint8_t *blob, size_t bytes) {
  edge_sha256 hash;
  edge_sha256_start(&hash);
  edge_sha256_add(&hash, blob, 64);
  edge_sha256_add(&hash, blob + EDGE_LEARNED_HEADER_BYTES, bytes - EDGE_LEARNED_HEADER_BYTES);
  edge_sha256_finish(&hash, blob + 64);
}

int main(int count, char **words) {
  if (count < 4) return 2;
  state = (uint64_t)strtoull(words[1], NULL, 10);
  const unsigned long cases = strtoul(words[2], NULL, 10);
  unsigned long learned = 0, refused = 0, loaded = 0, damaged = 0;
  const uint8_t key[EDGE_LEARNED_HASH_BYTES] = {1, 2, 3};
  edge_error error;
  for (int p = 3; p < count; ++p) {
    size_t size;
    uint8_t *bytes = read_file(words[p], &size);
    edge_requirements need;
    edge_model *model;
    if (edge_measure(bytes, size, NULL, &need, &error) != EDGE_OK) fail(words[p], &error);
    void *block = aligned(need.total_bytes);
    if (edge_prepare(bytes, size, NULL, block, need.total_bytes, &model, &error) != EDGE_OK) fail(words[p], &error);
    for (unsigned long c = 0; c < cases; ++c) {
      edge_learn_plan plan = {
          .layers = draw(6) == 0 ? EDGE_LEARN_ALL : draw(4),
          .classes = draw(2) ? 0 : draw(24),
          .learning_rate = draw(20) == 0 ? -1.0f : (float)(1 + draw(400)) / 1000.0f,
          .loss = draw(8) == 0 ? draw(4) : draw(2),
      };
      edge_learn_budget budget;
      edge_learner *learner;
      if (edge_learn_measure(model, &plan, &budget, &error) != EDGE_OK) {
        ++refused;
        continue;
      }
      /* Not rounded up: a byte more than was measured is a fault. */
      uint8_t *memory = NULL;
      if (posix_memalign((void **)&memory, 16, budget.total_bytes) != 0) return 2;
      memset(memory, 0xa5, budget.total_bytes);
      if (edge_learn_prepare(model, &plan, memory, budget.total_bytes - 1, &learner, &error) == EDGE_OK) return 3;
      if (edge_learn_prepare(model, &plan, memory, budget.total_bytes, &learner, &error) != EDGE_OK) {
        fail(words[p], &error);
      }
      size_t weights, outputs;
      float *own = edge_learn_weights(learner, &weights);
      for (uint32_t step = draw(4); step-- > 0;) {
        float target[32] = {0};
        target[draw(budget.classes)] = 1.0f;
        fill(model);
        edge_learn_result result;
        if (draw(2)) edge_learn_class(learner, draw(budget.classes + 1), &result, &error);
        fill(model);
        edge_learn_target(learner, target, draw(2) ? &result : NULL, &error);
        fill(model);
        if (edge_learn_predict(learner, &error) == EDGE_OK && edge_learn_outputs(learner, &outputs)[0] != 0.0f) ++learned;
      }
      const size_t whole = EDGE_LEARNED_HEADER_BYTES + weights * sizeof(float);
      uint8_t *blob = malloc(whole), *before = malloc(weights * sizeof(float));
      if (blob == NULL || before == NULL) return 2;
      memcpy(before, own, weights * sizeof(float));
      edge_learned_header(learner, key, blob);
      memcpy(blob + EDGE_LEARNED_HEADER_BYTES, own, weights * sizeof(float));
      /* Damage of the header, of the weights, signed anew or not; and cut off. */
      const uint32_t kind = draw(6);
      size_t given = whole;
      if (kind == 0) {
        given = draw((uint32_t)whole);
      } else if (kind < 4) {
        for (uint32_t flips = 1 + draw(3); flips-- > 0;) {
          blob[kind == 1 ? draw(EDGE_LEARNED_HEADER_BYTES) : draw((uint32_t)whole)] ^= (uint8_t)(1u << draw(8));
        }
        if (kind == 3) sign(blob, whole);
      } else if (kind == 4) {
        blob[4 + draw(28)] = (uint8_t)draw(256);
        sign(blob, whole);
      }
      uint8_t *copy = malloc(given > 0 ? given : 1); /* of its own size, so that reading behind it is a fault */
      if (copy == NULL) return 2;
      memcpy(copy, blob, given);
      edge_learn_plan found;
      size_t used;
      (void)edge_learned_plan(copy, given, key, &found, &used, &error);
      if (edge_learned_load(learner, copy, given, key, &error) == EDGE_OK) {
        ++loaded;
      } else {
        ++damaged;
        if (error.text[0] == '\0' || memcmp(before, own, weights * sizeof(float)) != 0) return 4;
      }
      edge_learn_reset(learner);
      fill(model);
      if (edge_run(model, NULL, NULL, &error) != EDGE_OK) return 5;
      free(copy);
      free(before);
      free(blob);
      free(memory);
    }
    free(block);
    free(bytes);
  }
  printf("%lu %lu %lu %lu\n", learned, refused, loaded, damaged);
  return 0;
}
