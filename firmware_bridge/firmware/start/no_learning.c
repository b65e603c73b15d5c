/* Instead of protocol/lessons.c and runtime/core/learn, in firmware that was built without learning: no learner ever
 * starts, and so nothing asks one. */
#include "device.h"

static edge_refusal refuse(edge_error *why) {
  return edge_refuse(why, EDGE_CANNOT_LEARN, "this firmware was built without learning");
}

edge_refusal edge_measure_lessons(edge_device *device, const edge_learn_plan *plan, edge_learn_budget *need,
                                  edge_error *why) {
  return (void)device, (void)plan, (void)need, refuse(why);
}
edge_refusal edge_start_lessons(edge_device *device, const edge_learn_plan *plan, edge_error *why) {
  return (void)device, (void)plan, refuse(why);
}
void edge_resume_lessons(edge_device *device) { (void)device; }
size_t edge_lesson_bytes(const edge_device *device) { return (void)device, 0; }
size_t edge_read_lessons(edge_device *device, size_t offset, uint8_t *to, size_t count) {
  return (void)device, (void)offset, (void)to, (void)count, 0;
}
edge_refusal edge_write_lessons(edge_device *device, uint32_t offset, const uint8_t *bytes, size_t count,
                                edge_error *why) {
  return (void)device, (void)offset, (void)bytes, (void)count, refuse(why);
}
edge_refusal edge_take_lessons(edge_device *device, edge_error *why) { return (void)device, refuse(why); }
edge_refusal edge_keep_lessons(edge_device *device, edge_error *why) { return (void)device, refuse(why); }
edge_refusal edge_forget_lessons(edge_device *device, edge_error *why) { return (void)device, refuse(why); }

edge_status edge_learn_predict(edge_learner *learner, edge_error *error) {
  return (void)learner, refuse(error), error->status;
}
edge_status edge_learn_class(edge_learner *learner, uint32_t index, edge_learn_result *result, edge_error *error) {
  return (void)learner, (void)index, (void)result, refuse(error), error->status;
}
edge_status edge_learn_target(edge_learner *learner, const float *target, edge_learn_result *result,
                              edge_error *error) {
  return (void)learner, (void)target, (void)result, refuse(error), error->status;
}
const float *edge_learn_outputs(const edge_learner *learner, size_t *count) { return (void)learner, *count = 0, NULL; }
uint32_t edge_learn_samples(const edge_learner *learner) { return (void)learner, 0; }
void edge_learn_set_rate(edge_learner *learner, float learning_rate) { (void)learner, (void)learning_rate; }
