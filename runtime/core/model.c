/* A prepared model: its tensors, its calls, and running them. */
#include <string.h>

#include "error.h"
#include "plan.h"

size_t edge_input_count(const edge_model *model) { return model->input_count; }

size_t edge_output_count(const edge_model *model) { return model->output_count; }

edge_tensor *edge_input(edge_model *model, size_t index) {
  return index < model->input_count ? &model->inputs[index]->as.tensor : NULL;
}

const edge_tensor *edge_output(const edge_model *model, size_t index) {
  return index < model->output_count ? &model->outputs[index]->as.tensor : NULL;
}

size_t edge_instruction_count(const edge_model *model) { return model->call_count; }

const edge_call *edge_instruction(const edge_model *model, size_t index) {
  return index < model->call_count ? &model->calls[index] : NULL;
}

edge_status edge_run(edge_model *model, edge_trace trace, void *user, edge_error *error) {
  return edge_run_calls(model, model->call_count, trace, user, error);
}

edge_status edge_run_calls(edge_model *model, uint32_t count, edge_trace trace, void *user, edge_error *error) {
  memset(error, 0, sizeof *error);
  for (uint32_t i = 0; i < count; ++i) {
    edge_call *call = &model->calls[i];
    call->error = error;
    edge_status status = call->op->run(call);
    if (status != EDGE_OK) {
      edge_locate_error(error, i);
      return status;
    }
    if (trace != NULL) trace(user, i, call);
  }
  return EDGE_OK;
}
