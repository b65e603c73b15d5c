/* Learned weights as bytes: learn.h says which. Nothing in them is trusted. */
#include <string.h>

#include "error.h"
#include "learn/learner.h"
#include "sha256.h"

enum { VERSION = 1, PROGRAM_AT = 32, DIGEST_AT = 64, LAYERS_AT = 6 };
/* Words of the header, by their place. */
enum { CLASSES = 2, WEIGHTS, SAMPLES, RATE, LOSS, NOTHING, WORDS };

_Static_assert(EDGE_LEARNED_HASH_BYTES == EDGE_SHA256_BYTES, "program and digest are SHA-256");

static void digest(const uint8_t *header, const void *weights, size_t bytes, uint8_t found[EDGE_SHA256_BYTES]) {
  edge_sha256 hash;
  edge_sha256_start(&hash);
  edge_sha256_add(&hash, header, DIGEST_AT);
  edge_sha256_add(&hash, weights, bytes);
  edge_sha256_finish(&hash, found);
}

static uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

void edge_learned_header(edge_learner *learner, const uint8_t program_hash[EDGE_LEARNED_HASH_BYTES],
                         uint8_t header[EDGE_LEARNED_HEADER_BYTES]) {
  const edge_learn_plan *plan = &learner->plan;
  const uint32_t words[WORDS] = {[CLASSES] = plan->classes, [WEIGHTS] = learner->parameters,
                                 [SAMPLES] = learner->samples, [RATE] = bits_of(plan->learning_rate),
                                 [LOSS] = plan->loss};
  memcpy(header, words, sizeof words);
  memcpy(header, "EDGW", 4);
  header[4] = VERSION;
  header[5] = 0;
  header[LAYERS_AT] = (uint8_t)plan->layers; /* at most EDGE_CHAIN_MAX */
  header[LAYERS_AT + 1] = 0;
  memcpy(header + PROGRAM_AT, program_hash, EDGE_LEARNED_HASH_BYTES);
  digest(header, learner->weights, learner->parameters * sizeof(float), header + DIGEST_AT);
}

#define refuse(error, why) edge_set_error((error), EDGE_BAD_FILE, "learned weights: " why)

edge_status edge_learned_plan(const void *blob, size_t bytes, const uint8_t program_hash[EDGE_LEARNED_HASH_BYTES],
                              edge_learn_plan *plan, size_t *used, edge_error *error) {
  const uint8_t *header = blob;
  uint32_t words[WORDS];
  uint8_t found[EDGE_SHA256_BYTES];
  memset(error, 0, sizeof *error);
  if (bytes < EDGE_LEARNED_HEADER_BYTES || memcmp(header, "EDGW", 4) != 0) return refuse(error, "no such data");
  if (header[4] != VERSION || header[5] != 0) return refuse(error, "of another version");
  memcpy(words, header, sizeof words);
  if (words[WEIGHTS] > (bytes - EDGE_LEARNED_HEADER_BYTES) / sizeof(float)) return refuse(error, "cut off");
  const size_t size = words[WEIGHTS] * sizeof(float);
  digest(header, header + EDGE_LEARNED_HEADER_BYTES, size, found);
  if (memcmp(found, header + DIGEST_AT, sizeof found) != 0) return refuse(error, "damaged");
  if (memcmp(program_hash, header + PROGRAM_AT, EDGE_LEARNED_HASH_BYTES) != 0) return refuse(error, "of another model");
  *plan = (edge_learn_plan){.layers = header[LAYERS_AT], .classes = words[CLASSES], .loss = words[LOSS]};
  memcpy(&plan->learning_rate, &words[RATE], sizeof plan->learning_rate);
  if (used != NULL) *used = EDGE_LEARNED_HEADER_BYTES + size;
  return header[LAYERS_AT + 1] != 0 || words[NOTHING] != 0 ? refuse(error, "malformed") : EDGE_OK;
}

edge_status edge_learned_load(edge_learner *learner, const void *blob, size_t bytes,
                              const uint8_t program_hash[EDGE_LEARNED_HASH_BYTES], edge_error *error) {
  edge_learn_plan plan;
  size_t used = 0;
  const edge_status status = edge_learned_plan(blob, bytes, program_hash, &plan, &used, error);
  if (status != EDGE_OK) return status;
  const size_t size = learner->parameters * sizeof(float);
  if (plan.layers != learner->plan.layers || plan.classes != learner->plan.classes ||
      used - EDGE_LEARNED_HEADER_BYTES != size) {
    return refuse(error, "of other layers or classes");
  }
  const uint8_t *weights = (const uint8_t *)blob + EDGE_LEARNED_HEADER_BYTES;
  for (size_t i = 0; i < size; i += sizeof(float)) { /* the hash says who wrote them, not what */
    float value;
    memcpy(&value, weights + i, sizeof value);
    if (!(value - value == 0.0f)) return refuse(error, "not finite");
  }
  memcpy(learner->weights, weights, size);
  memcpy(&learner->samples, (const uint8_t *)blob + SAMPLES * sizeof(uint32_t), sizeof learner->samples);
  return EDGE_OK;
}
