/* The first pass over a program: validates everything and adds up sizes, without memory of its own but a few
 * kilobytes of stack, because it builds the arguments of one call at a time. */
#include <string.h>

#include "error.h"
#include "plan.h"

static edge_status survey_counts(const edge_program *program) {
  const struct {
    const char *name;
    uint32_t count, limit;
  } counts[] = {
      {"planned memories", program->memories.count, EDGE_MAX_MEMORIES},
      {"inputs", program->inputs.count, EDGE_MAX_PORTS},
      {"outputs", program->outputs.count, EDGE_MAX_PORTS},
      {"values", program->values.count, EDGE_MAX_VALUES},
      {"operators", program->operators.count, EDGE_MAX_INSTRUCTIONS},
      {"instructions", program->instructions.count, EDGE_MAX_INSTRUCTIONS},
  };
  for (size_t i = 0; i < sizeof counts / sizeof *counts; ++i) {
    if (counts[i].count <= counts[i].limit) continue;
    return edge_set_error(program->reader.error, EDGE_UNSUPPORTED, "program with %lu %s; the core takes %lu",
                          (unsigned long)counts[i].count, counts[i].name, (unsigned long)counts[i].limit);
  }
  if (program->outputs.count > 0) return EDGE_OK;
  return edge_set_error(program->reader.error, EDGE_UNSUPPORTED, "program without outputs");
}

bool edge_is_copied(const edge_survey *survey, const edge_value *value) {
  return value->kind == EDGE_TENSOR && value->as.tensor.constant &&
         value->as.tensor.bytes <= survey->options.copied_constant_bytes;
}

/* Adds up the value table, the lists, copied constants and the extent of every planned buffer. */
static edge_status survey_values(edge_survey *survey) {
  const edge_program *program = &survey->program;
  if (!edge_add_bytes(&survey->need.state_bytes, (uint64_t)program->values.count * sizeof(edge_value *))) {
    return edge_too_large(program);
  }
  for (uint32_t i = 0; i < program->values.count; ++i) {
    _Alignas(16) uint8_t storage[EDGE_LIST_BYTES];
    edge_pool lists = {storage, sizeof storage, 0};
    edge_stored_value stored;
    edge_status status = edge_load_value(program, i, NULL, &lists, &stored);
    if (status != EDGE_OK) return status;
    survey->value_bytes += edge_value_bytes(&stored.value); /* there are at most EDGE_MAX_VALUES */
    /* An upper bound: entries of tensor lists will point into the table instead. */
    if (!edge_add_bytes(&survey->need.state_bytes, lists.used)) return edge_too_large(program);
    if (edge_is_copied(survey, &stored.value) &&
        !edge_add_bytes(&survey->need.state_bytes, stored.value.as.tensor.bytes)) {
      return edge_too_large(program);
    }
    if (stored.value.kind == EDGE_TENSOR && stored.memory != 0) {
      /* Both fit: the value was checked against the buffer's size. */
      uint64_t end = stored.offset + stored.value.as.tensor.bytes;
      if (end > SIZE_MAX) return edge_too_large(program);
      if (end > survey->memory_bytes[stored.memory]) survey->memory_bytes[stored.memory] = (size_t)end;
    }
  }
  if (!edge_add_bytes(&survey->need.state_bytes, survey->value_bytes)) return edge_too_large(program);
  for (uint32_t i = 0; i < program->memories.count; ++i) {
    if (!edge_add_bytes(&survey->need.arena_bytes, survey->memory_bytes[i])) return edge_too_large(program);
  }
  return EDGE_OK;
}

/* Whether the file leaves the tensor's memory to whoever runs the program. */
static bool is_unplanned(const edge_stored_value *stored) {
  return stored->memory == 0 && !stored->value.as.tensor.constant;
}

static edge_status read_port(const edge_program *program, const fb_vector *ports, uint32_t port, const char *role,
                             edge_stored_value *stored) {
  edge_status status = edge_read_value(program, fb_list_u32(&program->reader, ports, port), stored);
  if (status != EDGE_OK) return status;
  if (stored->value.kind != EDGE_TENSOR) {
    return edge_set_error(program->reader.error, EDGE_UNSUPPORTED,
                          "%s %lu is not a tensor; export a model whose inputs and outputs are tensors", role,
                          (unsigned long)port);
  }
  return EDGE_OK;
}

static edge_status survey_ports(edge_survey *survey) {
  const edge_program *program = &survey->program;
  for (uint32_t i = 0; i < program->inputs.count; ++i) {
    edge_stored_value stored;
    edge_status status = read_port(program, &program->inputs, i, "input", &stored);
    if (status != EDGE_OK) return status;
    if (stored.value.as.tensor.constant) {
      return edge_set_error(program->reader.error, EDGE_BAD_FILE, "input %lu is a constant; the file is damaged",
                            (unsigned long)i);
    }
    bool repeated = edge_lists_value(program, &program->inputs, i, fb_list_u32(&program->reader, &program->inputs, i));
    if (is_unplanned(&stored) && !repeated &&
        !edge_add_bytes(&survey->need.arena_bytes, stored.value.as.tensor.bytes)) {
      return edge_too_large(program);
    }
  }
  for (uint32_t i = 0; i < program->outputs.count; ++i) {
    edge_stored_value stored;
    edge_status status = read_port(program, &program->outputs, i, "output", &stored);
    if (status != EDGE_OK) return status;
    uint32_t value = fb_list_u32(&program->reader, &program->outputs, i);
    bool repeated = edge_lists_value(program, &program->inputs, program->inputs.count, value) ||
                    edge_lists_value(program, &program->outputs, i, value);
    if (is_unplanned(&stored) && !repeated &&
        !edge_add_bytes(&survey->need.arena_bytes, stored.value.as.tensor.bytes)) {
      return edge_too_large(program);
    }
  }
  if (!edge_add_bytes(&survey->need.state_bytes, program->inputs.count * sizeof(edge_value *)) ||
      !edge_add_bytes(&survey->need.state_bytes, program->outputs.count * sizeof(edge_value *))) {
    return edge_too_large(program);
  }
  return EDGE_OK;
}

/* One error that names every operator the core lacks, as far as they fit: a person wants to know all at once. */
static edge_status refuse_unknown_operators(const edge_program *program) {
  char names[EDGE_ERROR_TEXT / 2];
  size_t used = 0;
  uint32_t unknown = 0, named = 0;
  for (uint32_t i = 0; i < program->operators.count; ++i) {
    edge_stored_operator stored;
    edge_status status = edge_read_operator(program, i, &stored);
    if (status != EDGE_OK) return status;
    if (edge_is_view(program, &stored) || edge_find_operator(program, &stored) != NULL) continue;
    ++unknown;
    size_t length = strlen(stored.label.text);
    if (named + 1 == unknown && used + length + 3 < sizeof names) {
      if (used > 0) names[used++] = ',', names[used++] = ' ';
      memcpy(names + used, stored.label.text, length);
      used += length;
      ++named;
    }
  }
  names[used] = '\0';
  if (unknown == 0) return EDGE_OK;
#ifdef EDGE_BARE_METAL
  return (edge_set_error)(program->reader.error, EDGE_UNSUPPORTED,
                          named == unknown ? "not an operator of this firmware: %s"
                                           : "not operators of this firmware: %s and %lu more",
                          names, (unsigned long)(unknown - named));
#else
  if (named == unknown) {
    return edge_set_error(program->reader.error, EDGE_UNSUPPORTED,
                          "not an operator of the core: %s; use backend='executorch', or change the model", names);
  }
  return edge_set_error(program->reader.error, EDGE_UNSUPPORTED,
                        "not operators of the core: %s and %lu more; use backend='executorch', or change the model",
                        names, (unsigned long)(unknown - named));
#endif
}

/* Builds the arguments of each call in turn on the stack, to learn what the operators say about them. */
static edge_status survey_calls(edge_survey *survey) {
  const edge_program *program = &survey->program;
  edge_requirements *need = &survey->need;
  edge_status status = refuse_unknown_operators(program);
  for (uint32_t i = 0; status == EDGE_OK && i < program->instructions.count; ++i) {
    edge_stored_call stored;
    const edge_op *op;
    status = edge_open_call(program, i, &stored, &op);
    if (status != EDGE_OK) return status;
    _Alignas(16) uint8_t storage[EDGE_LIST_BYTES];
    edge_pool lists = {storage, sizeof storage, 0};
    edge_value arguments[EDGE_MAX_ARGUMENTS];
    edge_value *pointers[EDGE_MAX_ARGUMENTS];
    for (uint32_t j = 0; j < stored.args.count; ++j) {
      /* Arguments behind the operator's own repeat its outputs and are only looked at here. */
      edge_stored_value argument;
      status = edge_load_value(program, fb_list_u32(&program->reader, &stored.args, j), NULL, &lists, &argument);
      if (status != EDGE_OK) return status;
      arguments[j] = argument.value;
      pointers[j] = &arguments[j];
    }
    if (op == NULL) continue;
    edge_call call = {
        .op = op,
        .args = pointers,
        .arg_count = op->arg_count,
        .kernels = survey->options.kernels,
        .threads = survey->options.threads,
        .error = program->reader.error,
    };
    status = edge_check_call(&call, i);
    if (status != EDGE_OK) return status;
    if (call.scratch_bytes > need->scratch_bytes) need->scratch_bytes = call.scratch_bytes;
    if (!edge_add_bytes(&need->packed_bytes, call.packed_bytes)) return edge_too_large(program);
    need->macs = call.macs > UINT64_MAX - need->macs ? UINT64_MAX : need->macs + call.macs;
    ++survey->call_count;
    if (!edge_add_bytes(&need->state_bytes, op->arg_count * sizeof(edge_value *))) return edge_too_large(program);
  }
  if (status == EDGE_OK && !edge_add_bytes(&need->state_bytes, (uint64_t)survey->call_count * sizeof(edge_call))) {
    return edge_too_large(program);
  }
  return status;
}

edge_status edge_run_survey(edge_survey *survey, const void *bytes, size_t size, const edge_options *options,
                            edge_error *error) {
  memset(survey, 0, sizeof *survey);
  if (options != NULL) survey->options = *options;
  if (survey->options.kernels == NULL) survey->options.kernels = edge_kernels_at(0);
  memset(error, 0, sizeof *error);
  if ((uintptr_t)bytes % 16 != 0) {
    return edge_set_error(error, EDGE_BAD_ARGUMENT, "the program's bytes must start at a multiple of 16");
  }
  edge_status status = edge_open_program(&survey->program, bytes, size, error);
  if (status == EDGE_OK) status = survey_counts(&survey->program);
  if (status == EDGE_OK) status = survey_values(survey);
  if (status == EDGE_OK) status = survey_ports(survey);
  if (status == EDGE_OK) status = survey_calls(survey);
  if (status != EDGE_OK) return status;
  edge_requirements *need = &survey->need;
  size_t scratch = 0;
  if (!edge_add_bytes(&need->state_bytes, sizeof(edge_model)) || !edge_add_bytes(&scratch, need->scratch_bytes)) {
    return edge_too_large(&survey->program);
  }
  need->scratch_bytes = scratch;
  if (!edge_add_bytes(&need->total_bytes, need->packed_bytes) ||
      !edge_add_bytes(&need->total_bytes, need->state_bytes) ||
      !edge_add_bytes(&need->total_bytes, need->arena_bytes) ||
      !edge_add_bytes(&need->total_bytes, need->scratch_bytes)) {
    return edge_too_large(&survey->program);
  }
  return EDGE_OK;
}

edge_status edge_measure(const void *program, size_t size, const edge_options *options, edge_requirements *need,
                         edge_error *error) {
  edge_survey survey;
  edge_status status = edge_run_survey(&survey, program, size, options, error);
  *need = survey.need;
  return status;
}
