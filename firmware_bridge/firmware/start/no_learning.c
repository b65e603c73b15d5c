/* Instead of runtime/core/learn, in firmware that was built without learning: refuses to start it, and so nothing else
 * is ever called. */
#include "error.h"
#include "learn/learn.h"

static edge_status refuse(edge_error *error) {
  return edge_set_error(error, EDGE_UNSUPPORTED, "this firmware was built without learning");
}

edge_status edge_learn_measure(const edge_model *model, const edge_learn_plan *plan, edge_learn_budget *budget,
                               edge_error *error) {
  (void)model, (void)plan, (void)budget;
  return refuse(error);
}

edge_status edge_learn_prepare(edge_model *model, const edge_learn_plan *plan, void *block, size_t block_bytes,
                               edge_learner **learner, edge_error *error) {
  (void)model, (void)plan, (void)block, (void)block_bytes, (void)learner;
  return refuse(error);
}

edge_status edge_learned_plan(const void *blob, size_t bytes, const uint8_t program_hash[EDGE_LEARNED_HASH_BYTES],
                              edge_learn_plan *plan, size_t *used, edge_error *error) {
  (void)blob, (void)bytes, (void)program_hash, (void)plan, (void)used;
  return refuse(error);
}

edge_status edge_learned_load(edge_learner *learner, const void *blob, size_t bytes,
                              const uint8_t program_hash[EDGE_LEARNED_HASH_BYTES], edge_error *error) {
  (void)learner, (void)blob, (void)bytes, (void)program_hash;
  return refuse(error);
}

edge_status edge_learn_predict(edge_learner *learner, edge_error *error) { return (void)learner, refuse(error); }

edge_status edge_learn_class(edge_learner *learner, uint32_t index, edge_learn_result *result, edge_error *error) {
  return (void)learner, (void)index, (void)result, refuse(error);
}

edge_status edge_learn_target(edge_learner *learner, const float *target, edge_learn_result *result,
                              edge_error *error) {
  return (void)learner, (void)target, (void)result, refuse(error);
}

const float *edge_learn_outputs(const edge_learner *learner, size_t *count) { return (void)learner, *count = 0, NULL; }
float *edge_learn_weights(edge_learner *learner, size_t *count) { return (void)learner, *count = 0, NULL; }
uint32_t edge_learn_samples(const edge_learner *learner) { return (void)learner, 0; }
void edge_learn_set_rate(edge_learner *learner, float learning_rate) { (void)learner, (void)learning_rate; }
void edge_learn_reset(edge_learner *learner) { (void)learner; }
void edge_learned_header(edge_learner *learner, const uint8_t program_hash[EDGE_LEARNED_HASH_BYTES],
                         uint8_t header[EDGE_LEARNED_HEADER_BYTES]) {
  (void)learner, (void)program_hash, (void)header;
}
