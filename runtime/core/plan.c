/* The second pass: fills the caller's block with tables that run without looking at the file's structure again.
 *
 * It reads the file through the same checked functions as the survey: bytes that change in between (a mapped file being
 * rewritten) end in an error, never outside the block. */
#include <string.h>

#include "error.h"
#include "plan.h"

static edge_status changed(const edge_program *program) {
  return edge_set_error(program->reader.error, EDGE_BAD_FILE, "the program changed while it was being loaded");
}

/* Where the program wants a tensor of the arena, or NULL. */
static void *planned_place(const edge_survey *survey, uint8_t *const *memories, const edge_stored_value *stored) {
  const size_t room = stored->memory < survey->program.memories.count ? survey->memory_bytes[stored->memory] : 0;
  if (stored->offset > room || stored->value.as.tensor.bytes > room - stored->offset) return NULL;
  return memories[stored->memory] + stored->offset;
}

/* Gives each value its place, and as much of it as says how large that is. */
static edge_status place_values(const edge_survey *survey, edge_model *model, edge_pool *state) {
  const edge_program *program = &survey->program;
  model->values = edge_take(state, program->values.count, sizeof(edge_value *));
  uint8_t *place = edge_take(state, survey->value_bytes, 1);
  if (model->values == NULL || place == NULL) return changed(program);
  size_t left = survey->value_bytes;
  for (uint32_t i = 0; i < program->values.count; ++i) {
    edge_stored_value stored;
    edge_status status = edge_read_value(program, i, &stored);
    if (status != EDGE_OK) return status;
    const size_t bytes = edge_value_bytes(&stored.value);
    if (bytes > left) return changed(program);
    memcpy(place, &stored.value, bytes);
    model->values[i] = (edge_value *)(void *)place;
    place += bytes;
    left -= bytes;
  }
  return EDGE_OK;
}

static edge_status build_values(const edge_survey *survey, edge_model *model, edge_pool *state, edge_pool *arena,
                                uint8_t **memories) {
  const edge_program *program = &survey->program;
  for (uint32_t i = 0; i < program->memories.count; ++i) {
    memories[i] = edge_take(arena, survey->memory_bytes[i], 1);
    if (memories[i] == NULL) return changed(program);
  }
  edge_status status = place_values(survey, model, state);
  if (status != EDGE_OK) return status;
  for (uint32_t i = 0; i < program->values.count; ++i) {
    edge_stored_value stored;
    status = edge_load_value(program, i, model->values, state, &stored);
    if (status != EDGE_OK) return status;
    if (stored.value.kind == EDGE_TENSOR && stored.memory != 0) {
      stored.value.as.tensor.data = planned_place(survey, memories, &stored);
      if (stored.value.as.tensor.data == NULL) return changed(program);
    }
    if (edge_is_copied(survey, &stored.value)) {
      edge_tensor *tensor = &stored.value.as.tensor;
      void *copy = edge_take(state, tensor->bytes, 1);
      if (copy == NULL) return changed(program);
      if (tensor->bytes > 0) memcpy(copy, tensor->data, tensor->bytes);
      tensor->data = copy;
    }
    if (edge_value_bytes(&stored.value) != edge_value_bytes(model->values[i])) return changed(program);
    memcpy(model->values[i], &stored.value, edge_value_bytes(&stored.value));
  }
  return EDGE_OK;
}

/* After the weights are repacked: until then the file may fill as much memory as the arena will. */
static edge_status fill_arena(const edge_survey *survey, const edge_pool *arena, uint8_t *const *memories) {
  const edge_program *program = &survey->program;
  memset(arena->base, 0, arena->size); /* a run must not depend on what the block held before */
  for (uint32_t i = 0; i < program->values.count; ++i) {
    edge_stored_value stored;
    edge_status status = edge_read_value(program, i, &stored);
    if (status != EDGE_OK) return status;
    if (stored.value.kind != EDGE_TENSOR || stored.memory == 0 || stored.initial == NULL) continue;
    void *place = planned_place(survey, memories, &stored);
    if (place == NULL) return changed(program);
    memcpy(place, stored.initial, stored.value.as.tensor.bytes);
  }
  return EDGE_OK;
}

static edge_status build_ports(const edge_program *program, const fb_vector *ports, edge_model *model, edge_pool *state,
                               edge_pool *arena, edge_value ***pointers) {
  *pointers = edge_take(state, ports->count, sizeof(edge_value *));
  if (*pointers == NULL) return changed(program);
  for (uint32_t i = 0; i < ports->count; ++i) {
    uint32_t index = fb_list_u32(&program->reader, ports, i);
    if (index >= program->values.count || model->values[index]->kind != EDGE_TENSOR) return changed(program);
    edge_tensor *tensor = &model->values[index]->as.tensor;
    /* The survey saw none among the inputs; callers write to them. */
    if (ports == &program->inputs && tensor->constant) return changed(program);
    if (tensor->data == NULL) {
      tensor->data = edge_take(arena, tensor->bytes, 1);
      if (tensor->data == NULL) return changed(program);
    }
    (*pointers)[i] = model->values[index];
  }
  return EDGE_OK;
}

/* Makes the output of every view a second name for its input's memory. */
static edge_status resolve_views(const edge_program *program, edge_model *model) {
  for (uint32_t i = 0; i < program->instructions.count; ++i) {
    edge_stored_call stored;
    const edge_op *op;
    edge_status status = edge_open_call(program, i, &stored, &op);
    if (status != EDGE_OK) return status;
    if (op != NULL) continue;
    uint32_t self_index = fb_list_u32(&program->reader, &stored.args, EDGE_VIEW_SELF);
    uint32_t out_index = fb_list_u32(&program->reader, &stored.args, EDGE_VIEW_OUT);
    if (self_index >= program->values.count || out_index >= program->values.count) return changed(program);
    const edge_value *self = model->values[self_index];
    edge_value *out = model->values[out_index];
    if (self->kind != EDGE_TENSOR || out->kind != EDGE_TENSOR || self->as.tensor.data == NULL ||
        out->as.tensor.constant || self->as.tensor.dtype != out->as.tensor.dtype ||
        self->as.tensor.bytes != out->as.tensor.bytes ||
        edge_lists_value(program, &program->inputs, program->inputs.count, out_index)) {
      return edge_set_error(
          program->reader.error, EDGE_BAD_FILE,
          "instruction %lu, executorch_prim::et_view: value %lu is no view of value %lu; the file is damaged",
          (unsigned long)i, (unsigned long)out_index, (unsigned long)self_index);
    }
    out->as.tensor.data = self->as.tensor.data;
    out->as.tensor.constant = self->as.tensor.constant;
  }
  return EDGE_OK;
}

static bool overlap(const edge_tensor *a, const edge_tensor *b) {
  uintptr_t first = (uintptr_t)a->data, second = (uintptr_t)b->data;
  return a->bytes > 0 && b->bytes > 0 && first < second + b->bytes && second < first + a->bytes;
}

/* Checks one tensor against the call's outputs. */
static edge_status check_memory(const edge_call *call, uint32_t index, uint32_t argument, uint32_t entry) {
  const edge_tensor *tensor = edge_tensor_at(call->args[argument], entry);
  if (tensor == NULL) return EDGE_OK;
  if (tensor->data == NULL) {
    return edge_set_error(
        call->error, EDGE_UNSUPPORTED,
        "instruction %lu, %s: argument %lu has no planned memory; export with ExecuTorch's memory planning",
        (unsigned long)index, call->op->name, (unsigned long)argument);
  }
  for (uint32_t i = edge_first_output(call->op); i < call->op->arg_count; ++i) {
    uint32_t count = edge_tensor_count(call->args[i]);
    for (uint32_t j = 0; j < count; ++j) {
      const edge_tensor *output = edge_tensor_at(call->args[i], j);
      if (output == NULL || (i == argument && j == entry) || !overlap(tensor, output)) continue;
      if (edge_is_covered(call, argument)) continue;
      return edge_set_error(
          call->error, EDGE_UNSUPPORTED,
          "instruction %lu, %s: output argument %lu lies over argument %lu; export without in-place passes",
          (unsigned long)index, call->op->name, (unsigned long)i, (unsigned long)argument);
    }
  }
  return EDGE_OK;
}

static edge_status check_memories(const edge_call *call, uint32_t index) {
  edge_status status = EDGE_OK;
  for (uint32_t i = 0; status == EDGE_OK && i < call->op->arg_count; ++i) {
    uint32_t count = edge_tensor_count(call->args[i]);
    for (uint32_t j = 0; status == EDGE_OK && j < count; ++j) {
      status = check_memory(call, index, i, j);
    }
  }
  return status;
}

static void tell_repacked(const edge_options *options, const edge_call *call) {
  if (options->repacked == NULL) return;
  for (uint32_t i = 0; i < edge_first_output(call->op); ++i) {
    const edge_value *value = call->args[i];
    if (value->kind != EDGE_TENSOR || !value->as.tensor.constant) continue;
    if (value->as.tensor.bytes <= options->copied_constant_bytes) continue; /* a copy, not the file's */
    options->repacked(options->user, value->as.tensor.data, value->as.tensor.bytes);
  }
}

static edge_status build_calls(const edge_survey *survey, edge_model *model, edge_pool *state, edge_pool *packed,
                               const edge_pool *scratch) {
  const edge_program *program = &survey->program;
  model->calls = edge_take(state, survey->call_count, sizeof(edge_call));
  if (model->calls == NULL) return changed(program);
  for (uint32_t i = 0; i < program->instructions.count; ++i) {
    edge_stored_call stored;
    const edge_op *op;
    edge_status status = edge_open_call(program, i, &stored, &op);
    if (status != EDGE_OK) return status;
    if (op == NULL) continue;
    if (model->call_count == survey->call_count) return changed(program);
    edge_call *call = &model->calls[model->call_count];
    memset(call, 0, sizeof *call);
    call->op = op;
    call->arg_count = op->arg_count;
    call->args = edge_take(state, op->arg_count, sizeof(edge_value *));
    call->kernels = survey->options.kernels;
    call->threads = survey->options.threads;
    call->scratch = scratch->base;
    call->error = program->reader.error;
    if (call->args == NULL) return changed(program);
    for (uint32_t j = 0; j < op->arg_count; ++j) {
      uint32_t value = fb_list_u32(&program->reader, &stored.args, j);
      if (value >= program->values.count) return changed(program);
      call->args[j] = model->values[value];
    }
    status = edge_check_call(call, i);
    if (status == EDGE_OK) status = check_memories(call, i);
    if (status != EDGE_OK) return status;
    if (call->scratch_bytes > scratch->size) return changed(program);
    /* A constant that only a view made known as one was not surveyed: such a call runs unpacked. */
    if (call->packed_bytes > 0) call->packed = edge_take(packed, call->packed_bytes, 1);
    if (call->packed != NULL) {
      op->pack(call);
      tell_repacked(&survey->options, call);
    }
    ++model->call_count;
  }
  return EDGE_OK;
}

edge_status edge_prepare(const void *program, size_t size, const edge_options *options, void *block,
                         size_t block_bytes, edge_model **model, edge_error *error) {
  edge_survey survey;
  *model = NULL;
  edge_status status = edge_run_survey(&survey, program, size, options, error);
  if (status != EDGE_OK) return status;
  const edge_requirements *need = &survey.need;
  if ((uintptr_t)block % EDGE_PACK_ALIGN != 0 || block_bytes < need->total_bytes) {
    return edge_set_error(error, EDGE_BAD_ARGUMENT, "a block of %llu bytes at a multiple of %d is needed, %llu given",
                          (unsigned long long)need->total_bytes, EDGE_PACK_ALIGN, (unsigned long long)block_bytes);
  }
  edge_pool packed = {block, need->packed_bytes, 0}; /* first, because it wants the block's alignment */
  edge_pool state = {packed.base + packed.size, need->state_bytes, 0};
  edge_pool arena = {state.base + state.size, need->arena_bytes, 0};
  edge_pool scratch = {arena.base + arena.size, need->scratch_bytes, 0};
  uint8_t *memories[EDGE_MAX_MEMORIES];

  edge_model *built = edge_take(&state, 1, sizeof(edge_model));
  if (built == NULL) return changed(&survey.program);
  memset(built, 0, sizeof *built);
  built->input_count = survey.program.inputs.count;
  built->output_count = survey.program.outputs.count;
  status = build_values(&survey, built, &state, &arena, memories);
  if (status == EDGE_OK) {
    status = build_ports(&survey.program, &survey.program.inputs, built, &state, &arena, &built->inputs);
  }
  if (status == EDGE_OK) {
    status = build_ports(&survey.program, &survey.program.outputs, built, &state, &arena, &built->outputs);
  }
  if (status == EDGE_OK) status = resolve_views(&survey.program, built);
  if (status == EDGE_OK) status = build_calls(&survey, built, &state, &packed, &scratch);
  if (status == EDGE_OK) status = fill_arena(&survey, &arena, memories);
  if (status == EDGE_OK) edge_choose_layouts(&survey.program, built);
  if (status == EDGE_OK) *model = built;
  return status;
}
