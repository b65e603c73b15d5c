/* Which intermediate images have their channels last.
 *
 * Convolutions work on pixels, all channels of one at a time, while a program's tensors are planes, one channel each:
 * between two such operators the turning there and back would cost more than their products. Sizes and memory stay as
 * planned. Inputs, outputs, constants, and what a view shares its memory with, stay row-major.
 *
 * Views come in two kinds: as an instruction, and as a second value in the same memory, which no instruction writes.
 */
#include "plan.h"

/* Looking for views takes time that grows with the square of it; programs with more are left as they are. */
enum { MAX_CALLS = 1024 };

static bool may_turn(const edge_value *value) {
  const edge_tensor *tensor = &value->as.tensor;
  return value->kind == EDGE_TENSOR && tensor->rank == 4 && tensor->dtype == EDGE_FLOAT32 && !tensor->constant &&
         tensor->data != NULL;
}

/* Takes the mark off; whether it had one. */
static bool unmark(edge_value *value) {
  if (value->kind != EDGE_TENSOR || !value->as.tensor.channels_last) return false;
  value->as.tensor.channels_last = false;
  return true;
}

static void unmark_ports(edge_value **ports, uint32_t count) {
  for (uint32_t i = 0; i < count; ++i) unmark(ports[i]);
}

static edge_value *entry_of(edge_value *argument, uint32_t index) {
  return argument->kind == EDGE_TENSOR ? argument : argument->as.tensors[index];
}

/* Notes what the caller and the instructions write. */
static void note_written(const edge_program *program, edge_model *model) {
  for (uint32_t i = 0; i < program->values.count; ++i) {
    if (model->values[i]->kind == EDGE_TENSOR) model->values[i]->as.tensor.written = false;
  }
  for (uint32_t i = 0; i < model->input_count; ++i) model->inputs[i]->as.tensor.written = true;
  for (uint32_t i = 0; i < model->call_count; ++i) {
    const edge_call *call = &model->calls[i];
    for (uint32_t j = edge_first_output(call->op); j < call->arg_count; ++j) {
      const uint32_t count = edge_tensor_count(call->args[j]);
      for (uint32_t k = 0; k < count; ++k) entry_of(call->args[j], k)->as.tensor.written = true;
    }
  }
}

/* Takes the mark off what wrote the memory of `name` last before call `reader`: the two are one tensor. */
static void unmark_writer(edge_model *model, const edge_tensor *name, uint32_t reader) {
  const uintptr_t first = (uintptr_t)name->data, end = first + name->bytes;
  for (uint32_t i = reader; i-- > 0;) {
    const edge_call *call = &model->calls[i];
    for (uint32_t j = edge_first_output(call->op); j < call->arg_count; ++j) {
      if (call->args[j]->kind != EDGE_TENSOR) continue; /* lists bear no marks */
      const edge_tensor *written = &call->args[j]->as.tensor;
      const uintptr_t begin = (uintptr_t)written->data;
      if (begin >= end || first >= begin + written->bytes) continue;
      unmark(call->args[j]);
      if (begin <= first && end <= begin + written->bytes) return;
    }
  }
}

/* What is read under a name that nothing writes is another tensor's memory. */
static void unmark_shared(edge_model *model) {
  for (uint32_t i = 0; i < model->call_count; ++i) {
    const edge_call *call = &model->calls[i];
    for (uint32_t j = 0; j < edge_first_output(call->op); ++j) {
      const uint32_t count = edge_tensor_count(call->args[j]);
      for (uint32_t k = 0; k < count; ++k) {
        const edge_value *value = entry_of(call->args[j], k);
        if (value->kind != EDGE_TENSOR || value->as.tensor.constant || value->as.tensor.written) continue;
        unmark_writer(model, &value->as.tensor, i);
      }
    }
  }
}

static void unmark_views(const edge_program *program, edge_model *model) {
  for (uint32_t i = 0; i < program->instructions.count; ++i) {
    edge_stored_call stored;
    const edge_op *op;
    if (edge_open_call(program, i, &stored, &op) != EDGE_OK || op != NULL) continue;
    const uint32_t self = fb_list_u32(&program->reader, &stored.args, EDGE_VIEW_SELF);
    const uint32_t out = fb_list_u32(&program->reader, &stored.args, EDGE_VIEW_OUT);
    if (self < program->values.count) unmark(model->values[self]);
    if (out < program->values.count) unmark(model->values[out]);
  }
}

/* Two tensors that must have the same order, if both are tensors; whether it took a mark off. */
static bool make_alike(edge_value *first, edge_value *second) {
  if (first->kind != EDGE_TENSOR || second->kind != EDGE_TENSOR) return false;
  if (first->as.tensor.channels_last == second->as.tensor.channels_last) return false;
  unmark(first);
  unmark(second);
  return true;
}

/* Whether it took a mark off. */
static bool unmark_call(const edge_call *call) {
  bool changed = false;
  for (uint32_t i = 0; i < call->arg_count; ++i) {
    edge_value *argument = call->args[i];
    if (!(call->op->channels_last >> i & 1u)) changed = unmark(argument) || changed;
    if (argument->kind != EDGE_TENSOR_LIST) continue;
    for (uint32_t j = 0; j < argument->count; ++j) changed = unmark(argument->as.tensors[j]) || changed;
  }
  if (call->op->alike[0] != 0) {
    changed = make_alike(call->args[call->op->alike[0]], call->args[call->op->alike[1]]) || changed;
  }
  for (uint32_t i = 0; i < edge_first_output(call->op); ++i) {
    if (edge_is_covered(call, i)) changed = make_alike(call->args[i], call->args[edge_first_output(call->op)]) || changed;
  }
  return changed;
}

void edge_choose_layouts(const edge_program *program, edge_model *model) {
  if (model->call_count > MAX_CALLS) return;
  for (uint32_t i = 0; i < program->values.count; ++i) {
    edge_stored_value stored;
    edge_value *value = model->values[i];
    if (!may_turn(value)) continue;
    /* What the file gives a first content for is in the order of the file. */
    const bool readable = edge_read_value(program, i, &stored) == EDGE_OK;
    value->as.tensor.channels_last = readable && stored.initial == NULL;
  }
  unmark_ports(model->inputs, model->input_count);
  unmark_ports(model->outputs, model->output_count);
  unmark_views(program, model);
  note_written(program, model);
  unmark_shared(model);
  for (bool changed = true; changed;) { /* each round takes at least one mark off */
    changed = false;
    for (uint32_t i = 0; i < model->call_count; ++i) changed = unmark_call(&model->calls[i]) || changed;
  }
}
