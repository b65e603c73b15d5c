/* Reads ExecuTorch program files: header, schema ET12 (exir/_serialize/program.fbs), segments. */
#include "program.h"

#include <string.h>

#include "program_tensor.h"

/* Field numbers, in the schema's order. */
enum {
  PROGRAM_PLANS = 1,
  PROGRAM_CONSTANT_BUFFERS = 2,
  PROGRAM_SEGMENTS = 4,
  PROGRAM_CONSTANT_SEGMENT = 5,
  PROGRAM_MUTABLE_SEGMENTS = 6
};
enum {
  PLAN_NAME = 0,
  PLAN_VALUES = 2,
  PLAN_INPUTS = 3,
  PLAN_OUTPUTS = 4,
  PLAN_CHAINS = 5,
  PLAN_OPERATORS = 6,
  PLAN_DELEGATES = 7,
  PLAN_MEMORIES = 8
};
enum { CHAIN_INSTRUCTIONS = 2 };
enum { INSTRUCTION_KIND = 0, INSTRUCTION_BODY = 1 };
enum { BODY_KERNEL = 1, BODY_DELEGATE = 2, BODY_MOVE = 3, BODY_JUMP = 4, BODY_FREE = 5 };
enum { KERNEL_OPERATOR = 0, KERNEL_ARGS = 1 };
enum { OPERATOR_NAME = 0, OPERATOR_OVERLOAD = 1 };
enum { DELEGATE_ID = 0 };
enum { VALUE_KIND = 0, VALUE_BODY = 1 };
enum {
  VALUE_NULL = 1,
  VALUE_INT,
  VALUE_BOOL,
  VALUE_DOUBLE,
  VALUE_TENSOR,
  VALUE_STRING,
  VALUE_INT_LIST,
  VALUE_DOUBLE_LIST,
  VALUE_BOOL_LIST,
  VALUE_TENSOR_LIST,
  VALUE_OPTIONAL_TENSOR_LIST
};

enum { HEADER_AT = 8, HEADER_MINIMUM = 24, HEADER_WITH_SEGMENT_SIZE = 32 };

edge_status edge_fault(const edge_program *program) { return program->reader.error->status; }

edge_label edge_string_label(const edge_program *program, const fb_vector *string) {
  return edge_make_label(program->reader.bytes + string->at, string->count);
}

#ifndef EDGE_TERSE
edge_status edge_refuse_value(const edge_program *program, edge_status status, uint32_t index, const char *text) {
  return edge_set_error(program->reader.error, status, "value %lu: %s", (unsigned long)index, text);
}
#endif

static uint64_t header_number(const uint8_t *bytes, size_t at, int width) {
  uint64_t number = 0;
  for (int i = width - 1; i >= 0; --i) number = number << 8 | bytes[at + (size_t)i];
  return number;
}

/* Finds where the FlatBuffer ends and the segments begin. */
static edge_status open_header(edge_program *program, const uint8_t *bytes, size_t size) {
  edge_error *error = program->reader.error;
  if (size < 8 || memcmp(bytes + 4, "ET", 2) != 0) {
    return edge_set_error(error, EDGE_BAD_FILE, "not an ExecuTorch program (.pte): no 'ET12' at byte 4");
  }
  if (memcmp(bytes + 4, "ET12", 4) != 0) {
    edge_label version = edge_make_label(bytes + 4, 4);
    return edge_set_error(error, EDGE_UNSUPPORTED,
                          "program of schema %s; the core reads ET12: export it again with ExecuTorch 1.x",
                          version.text);
  }
  uint64_t program_bytes = size;
  program->segments.bytes = bytes + size;
  if (size >= HEADER_AT + HEADER_MINIMUM && memcmp(bytes + HEADER_AT, "eh00", 4) == 0) {
    uint64_t header_bytes = header_number(bytes, HEADER_AT + 4, 4);
    program_bytes = header_number(bytes, HEADER_AT + 8, 8);
    uint64_t base = header_number(bytes, HEADER_AT + 16, 8);
    if (header_bytes < HEADER_MINIMUM || header_bytes > size - HEADER_AT || program_bytes < HEADER_AT + header_bytes ||
        program_bytes > size || base > size || (base != 0 && base < program_bytes)) {
      return edge_set_error(
          error, EDGE_BAD_FILE,
          "truncated or damaged program: its header names %llu bytes, the file has %llu; fetch it again",
          (unsigned long long)(base > program_bytes ? base : program_bytes), (unsigned long long)size);
    }
    if (base != 0) {
      program->segments.bytes = bytes + base;
      program->segments.size = size - base;
    }
    if (header_bytes >= HEADER_WITH_SEGMENT_SIZE && size >= HEADER_AT + HEADER_WITH_SEGMENT_SIZE) {
      uint64_t data_bytes = header_number(bytes, HEADER_AT + 24, 8);
      if (data_bytes > program->segments.size) {
        return edge_set_error(error, EDGE_BAD_FILE,
                              "truncated program: %llu bytes of data announced, %llu there; fetch it again",
                              (unsigned long long)data_bytes, (unsigned long long)program->segments.size);
      }
      if (data_bytes > 0) program->segments.size = data_bytes;
    }
  }
  if (program_bytes > INT32_MAX) {
    return edge_set_error(error, EDGE_UNSUPPORTED, "program of more than 2 GiB before its segments");
  }
  program->reader.bytes = bytes;
  program->reader.size = (uint32_t)program_bytes;
  return EDGE_OK;
}

/* Chooses the method to run. */
static edge_status open_plan(const edge_program *program, const fb_vector *plans, fb_table *plan) {
  const fb_reader *reader = &program->reader;
  fb_vector name = {0, 0};
  for (uint32_t i = 0; i < plans->count; ++i) {
    if (!fb_list_table(reader, plans, i, "method", plan)) return edge_fault(program);
    if (!fb_string(reader, plan, PLAN_NAME, "method name", &name)) return edge_fault(program);
    if (name.count == 7 && memcmp(reader->bytes + name.at, "forward", 7) == 0) return EDGE_OK;
  }
  if (plans->count == 1) return EDGE_OK;
  if (plans->count == 0) return edge_set_error(reader->error, EDGE_BAD_FILE, "program without a method");
  edge_label last = edge_string_label(program, &name);
  return edge_set_error(reader->error, EDGE_UNSUPPORTED,
                        "program with %lu methods, none named 'forward' (the last is '%s'); export one method",
                        (unsigned long)plans->count, last.text);
}

static edge_status refuse_delegates(const edge_program *program) {
  if (program->delegates.count == 0) return EDGE_OK;
  const fb_reader *reader = &program->reader;
  fb_table delegate;
  fb_vector id;
  if (!fb_list_table(reader, &program->delegates, 0, "delegate", &delegate)) return edge_fault(program);
  if (!fb_string(reader, &delegate, DELEGATE_ID, "delegate id", &id)) return edge_fault(program);
  edge_label label = edge_string_label(program, &id);
  return edge_set_error(
      reader->error, EDGE_UNSUPPORTED,
      "delegate %s: the core runs no delegates; export without a partitioner or use backend='executorch'", label.text);
}

edge_status edge_open_program(edge_program *program, const void *bytes, size_t size, edge_error *error) {
  memset(program, 0, sizeof *program);
  program->reader.error = error;
  edge_status status = open_header(program, bytes, size);
  if (status != EDGE_OK) return status;

  const fb_reader *reader = &program->reader;
  fb_table root, subsegment, plan, chain;
  fb_vector plans, chains;
  bool present;
  if (!fb_root(reader, &root) || !fb_list(reader, &root, PROGRAM_PLANS, 4, "methods", &plans) ||
      !fb_list(reader, &root, PROGRAM_CONSTANT_BUFFERS, 4, "constant buffers", &program->constant_buffers) ||
      !fb_list(reader, &root, PROGRAM_SEGMENTS, 4, "segments", &program->segment_table) ||
      !fb_list(reader, &root, PROGRAM_MUTABLE_SEGMENTS, 4, "mutable segments", &program->mutable_segments) ||
      !fb_child(reader, &root, PROGRAM_CONSTANT_SEGMENT, "constant segment", &subsegment, &present)) {
    return edge_fault(program);
  }
  if (present && (!fb_u32(reader, &subsegment, SUBSEGMENT_SEGMENT, "constant segment", &program->constant_segment) ||
                  !fb_list(reader, &subsegment, SUBSEGMENT_OFFSETS, 8, "constants", &program->constant_offsets))) {
    return edge_fault(program);
  }
  program->constants_in_segment = program->constant_offsets.count > 0;

  status = open_plan(program, &plans, &plan);
  if (status != EDGE_OK) return status;
  if (!fb_list(reader, &plan, PLAN_VALUES, 4, "values", &program->values) ||
      !fb_list(reader, &plan, PLAN_INPUTS, 4, "inputs", &program->inputs) ||
      !fb_list(reader, &plan, PLAN_OUTPUTS, 4, "outputs", &program->outputs) ||
      !fb_list(reader, &plan, PLAN_OPERATORS, 4, "operators", &program->operators) ||
      !fb_list(reader, &plan, PLAN_DELEGATES, 4, "delegates", &program->delegates) ||
      !fb_list(reader, &plan, PLAN_MEMORIES, 8, "planned memories", &program->memories) ||
      !fb_list(reader, &plan, PLAN_CHAINS, 4, "chains", &chains)) {
    return edge_fault(program);
  }
  if (chains.count != 1) {
    return edge_set_error(error, EDGE_UNSUPPORTED, "method with %lu chains of instructions; the core runs one",
                          (unsigned long)chains.count);
  }
  if (!fb_list_table(reader, &chains, 0, "chain", &chain) ||
      !fb_list(reader, &chain, CHAIN_INSTRUCTIONS, 4, "instructions", &program->instructions)) {
    return edge_fault(program);
  }
  return refuse_delegates(program);
}

edge_status edge_read_value(const edge_program *program, uint32_t index, edge_stored_value *stored) {
  const fb_reader *reader = &program->reader;
  memset(stored, 0, sizeof *stored);
  if (index >= program->values.count) {
    return edge_set_error(reader->error, EDGE_BAD_FILE, "value %lu of %lu is asked for; the file is damaged",
                          (unsigned long)index, (unsigned long)program->values.count);
  }
  fb_table table, body;
  uint8_t kind = 0;
  bool present;
  if (!fb_list_table(reader, &program->values, index, "value", &table) ||
      !fb_u8(reader, &table, VALUE_KIND, "value kind", &kind) ||
      !fb_child(reader, &table, VALUE_BODY, "value", &body, &present)) {
    return edge_fault(program);
  }
  if (!present) return edge_refuse_value(program, EDGE_BAD_FILE, index, "empty; the file is damaged");

  edge_value *value = &stored->value;
  uint64_t number = 0;
  uint8_t truth = 0;
  bool ok = true;
  switch (kind) {
    case VALUE_NULL: value->kind = EDGE_NONE; break;
    case VALUE_INT:
      ok = fb_u64(reader, &body, 0, "int", &number);
      value->kind = EDGE_INT;
      value->as.integer = (int64_t)number;
      break;
    case VALUE_BOOL:
      ok = fb_u8(reader, &body, 0, "bool", &truth);
      value->kind = EDGE_BOOLEAN;
      value->as.boolean = truth != 0;
      break;
    case VALUE_DOUBLE:
      ok = fb_u64(reader, &body, 0, "double", &number);
      value->kind = EDGE_DOUBLE;
      memcpy(&value->as.real, &number, sizeof number);
      break;
    case VALUE_TENSOR: return edge_read_tensor(program, index, &body, stored);
    case VALUE_STRING:
      ok = fb_string(reader, &body, 0, "string", &stored->items);
      value->kind = EDGE_STRING;
      value->as.string = (const char *)reader->bytes + stored->items.at;
      break;
    case VALUE_INT_LIST:
      ok = fb_list(reader, &body, 0, 8, "int list", &stored->items);
      value->kind = EDGE_INT_LIST;
      break;
    case VALUE_DOUBLE_LIST:
      ok = fb_list(reader, &body, 0, 8, "double list", &stored->items);
      value->kind = EDGE_DOUBLE_LIST;
      break;
    case VALUE_BOOL_LIST:
      ok = fb_list(reader, &body, 0, 1, "bool list", &stored->items);
      value->kind = EDGE_BOOL_LIST;
      break;
    case VALUE_TENSOR_LIST:
    case VALUE_OPTIONAL_TENSOR_LIST:
      ok = fb_list(reader, &body, 0, 4, "tensor list", &stored->items);
      value->kind = EDGE_TENSOR_LIST;
      break;
    default: return edge_refuse_value(program, EDGE_BAD_FILE, index, "of an unknown kind; the file is damaged");
  }
  if (!ok) return edge_fault(program);
  value->count = stored->items.count;
  return EDGE_OK;
}

edge_status edge_read_call(const edge_program *program, uint32_t index, edge_stored_call *call) {
  const fb_reader *reader = &program->reader;
  fb_table table, body;
  uint8_t kind = 0;
  bool present;
  if (!fb_list_table(reader, &program->instructions, index, "instruction", &table) ||
      !fb_u8(reader, &table, INSTRUCTION_KIND, "instruction kind", &kind) ||
      !fb_child(reader, &table, INSTRUCTION_BODY, "instruction", &body, &present)) {
    return edge_fault(program);
  }
  if (kind != BODY_KERNEL) {
    const char *name = kind == BODY_DELEGATE ? "a delegate call without a delegate"
                       : kind == BODY_MOVE   ? "a move (control flow, torch.cond)"
                       : kind == BODY_JUMP   ? "a jump (control flow, torch.cond)"
                       : kind == BODY_FREE   ? "a free (unbounded dynamic shapes)"
                                             : "an unknown instruction";
    return edge_set_error(
        reader->error, EDGE_UNSUPPORTED,
        "instruction %lu is %s; the core runs operator calls only: export a straight-line model with static shapes",
        (unsigned long)index, name);
  }
  if (!present) {
    return edge_set_error(reader->error, EDGE_BAD_FILE, "instruction %lu is empty; the file is damaged",
                          (unsigned long)index);
  }
  call->operator_index = 0;
  if (!fb_u32(reader, &body, KERNEL_OPERATOR, "operator index", &call->operator_index) ||
      !fb_list(reader, &body, KERNEL_ARGS, 4, "arguments", &call->args)) {
    return edge_fault(program);
  }
  return EDGE_OK;
}

edge_status edge_read_operator(const edge_program *program, uint32_t index, edge_stored_operator *stored) {
  const fb_reader *reader = &program->reader;
  fb_table table;
  if (index >= program->operators.count) {
    return edge_set_error(reader->error, EDGE_BAD_FILE, "operator %lu of %lu is asked for; the file is damaged",
                          (unsigned long)index, (unsigned long)program->operators.count);
  }
  if (!fb_list_table(reader, &program->operators, index, "operator", &table) ||
      !fb_string(reader, &table, OPERATOR_NAME, "operator name", &stored->name) ||
      !fb_string(reader, &table, OPERATOR_OVERLOAD, "operator overload", &stored->overload)) {
    return edge_fault(program);
  }
  stored->label = edge_string_label(program, &stored->name);
  size_t length = strlen(stored->label.text);
  if (stored->overload.count > 0 && length + 2 < sizeof stored->label.text) {
    edge_label overload = edge_string_label(program, &stored->overload);
    size_t room = sizeof stored->label.text - length - 2;
    size_t kept = strlen(overload.text) < room ? strlen(overload.text) : room;
    stored->label.text[length] = '.';
    memcpy(stored->label.text + length + 1, overload.text, kept);
    stored->label.text[length + 1 + kept] = '\0';
  }
  return EDGE_OK;
}

bool edge_is_view(const edge_program *program, const edge_stored_operator *stored) {
  static const char name[] = "executorch_prim::et_view";
  return stored->name.count == sizeof name - 1 &&
         memcmp(program->reader.bytes + stored->name.at, name, sizeof name - 1) == 0;
}
