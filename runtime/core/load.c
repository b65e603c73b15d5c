/* Builds values and opens calls from a program: what the survey and the build have in common. */
#include <string.h>

#include "error.h"
#include "plan.h"

/* Entries of tensor lists that are None, in a file that does not point to a None value. */
#define NO_VALUE UINT32_MAX

size_t edge_value_bytes(const edge_value *value) {
  size_t bytes = offsetof(edge_value, as) + sizeof(int64_t); /* the largest but for tensors */
  if (value->kind == EDGE_TENSOR) {
    bytes = offsetof(edge_value, as.tensor.sizes) + value->as.tensor.rank * sizeof value->as.tensor.sizes[0];
  }
  return (bytes + sizeof(int64_t) - 1) / sizeof(int64_t) * sizeof(int64_t);
}

bool edge_add_bytes(size_t *total, uint64_t bytes) {
  if (bytes > SIZE_MAX - 15) return false;
  size_t rounded = ((size_t)bytes + 15) & ~(size_t)15;
  if (rounded > SIZE_MAX - *total) return false;
  *total += rounded;
  return true;
}

edge_status edge_too_large(const edge_program *program) {
  return edge_set_error(program->reader.error, EDGE_UNSUPPORTED,
                        "program needs more memory than this machine can address");
}

void *edge_take(edge_pool *pool, size_t count, size_t width) {
  size_t start = pool->used;
  if (count > SIZE_MAX / width || !edge_add_bytes(&pool->used, count * width) || pool->used > pool->size) {
    pool->used = start;
    return NULL;
  }
  return pool->base + start;
}

static edge_status pool_full(const edge_program *program) {
  return edge_set_error(program->reader.error, EDGE_UNSUPPORTED, "a call whose lists hold too many entries");
}

static edge_status check_list(const edge_program *program, uint32_t index, const edge_stored_value *stored) {
  if (stored->items.count <= EDGE_MAX_LIST) return EDGE_OK;
  return edge_set_error(program->reader.error, EDGE_UNSUPPORTED, "value %lu: a list of %lu entries; the core takes %d",
                        (unsigned long)index, (unsigned long)stored->items.count, EDGE_MAX_LIST);
}

static bool is_list(uint8_t kind) {
  return kind == EDGE_INT_LIST || kind == EDGE_DOUBLE_LIST || kind == EDGE_BOOL_LIST || kind == EDGE_TENSOR_LIST;
}

static edge_status fill_integers(const edge_program *program, uint32_t index, const edge_stored_value *stored,
                                 int64_t *integers) {
  for (uint32_t i = 0; i < stored->items.count; ++i) {
    uint64_t item = fb_list_u64(&program->reader, &stored->items, i);
    edge_stored_value entry;
    edge_status status = edge_read_value(program, item < NO_VALUE ? (uint32_t)item : NO_VALUE, &entry);
    if (status != EDGE_OK) return status;
    if (entry.value.kind != EDGE_INT) {
      return edge_set_error(program->reader.error, EDGE_BAD_FILE,
                            "value %lu: entry %lu of an int list is no int; the file is damaged", (unsigned long)index,
                            (unsigned long)i);
    }
    integers[i] = entry.value.as.integer;
  }
  return EDGE_OK;
}

/* `table`: the model's values, which entries then are; NULL: entries are built in `pool`. */
static edge_status fill_tensors(const edge_program *program, uint32_t index, const edge_stored_value *stored,
                                edge_value *const *table, edge_pool *pool, edge_value **tensors) {
  for (uint32_t i = 0; i < stored->items.count; ++i) {
    uint32_t item = fb_list_u32(&program->reader, &stored->items, i);
    edge_stored_value entry;
    memset(&entry, 0, sizeof entry);
    if (item != NO_VALUE) {
      edge_status status = edge_read_value(program, item, &entry);
      if (status != EDGE_OK) return status;
    }
    if (entry.value.kind != EDGE_TENSOR && entry.value.kind != EDGE_NONE) {
      return edge_set_error(program->reader.error, EDGE_BAD_FILE,
                            "value %lu: entry %lu of a tensor list is no tensor; the file is damaged",
                            (unsigned long)index, (unsigned long)i);
    }
    if (table != NULL && item != NO_VALUE) {
      tensors[i] = table[item];
    } else {
      tensors[i] = edge_take(pool, 1, sizeof entry.value);
      if (tensors[i] == NULL) return pool_full(program);
      *tensors[i] = entry.value;
    }
  }
  return EDGE_OK;
}

edge_status edge_load_value(const edge_program *program, uint32_t index, edge_value *const *table, edge_pool *pool,
                            edge_stored_value *stored) {
  edge_status status = edge_read_value(program, index, stored);
  if (status != EDGE_OK) return status;
  edge_value *value = &stored->value;
  if (!is_list(value->kind)) return EDGE_OK;
  status = check_list(program, index, stored);
  if (status != EDGE_OK) return status;

  uint32_t count = stored->items.count;
  size_t width = value->kind == EDGE_BOOL_LIST     ? sizeof(bool)
                 : value->kind == EDGE_TENSOR_LIST ? sizeof(edge_value *)
                                                   : 8;
  void *elements = edge_take(pool, count, width);
  if (elements == NULL) return pool_full(program);
  switch (value->kind) {
    case EDGE_INT_LIST: value->as.integers = elements; return fill_integers(program, index, stored, elements);
    case EDGE_TENSOR_LIST:
      value->as.tensors = elements;
      return fill_tensors(program, index, stored, table, pool, elements);
    case EDGE_DOUBLE_LIST:
      value->as.reals = elements;
      for (uint32_t i = 0; i < count; ++i) {
        uint64_t bits = fb_list_u64(&program->reader, &stored->items, i);
        memcpy((double *)elements + i, &bits, sizeof bits);
      }
      return EDGE_OK;
    default:
      value->as.booleans = elements;
      for (uint32_t i = 0; i < count; ++i) ((bool *)elements)[i] = program->reader.bytes[stored->items.at + i] != 0;
      return EDGE_OK;
  }
}

bool edge_lists_value(const edge_program *program, const fb_vector *ports, uint32_t count, uint32_t value) {
  for (uint32_t i = 0; i < count; ++i) {
    if (fb_list_u32(&program->reader, ports, i) == value) return true;
  }
  return false;
}

const edge_op *edge_find_operator(const edge_program *program, const edge_stored_operator *stored) {
  const char *bytes = (const char *)program->reader.bytes;
  return edge_find_op(bytes + stored->name.at, stored->name.count, bytes + stored->overload.at, stored->overload.count);
}

edge_status edge_open_call(const edge_program *program, uint32_t index, edge_stored_call *call, const edge_op **op) {
  edge_error *error = program->reader.error;
  edge_status status = edge_read_call(program, index, call);
  if (status != EDGE_OK) return status;
  edge_stored_operator stored;
  status = edge_read_operator(program, call->operator_index, &stored);
  if (status != EDGE_OK) return status;
  *op = NULL;
  uint32_t wanted = EDGE_VIEW_ARGUMENTS;
  if (!edge_is_view(program, &stored)) {
    *op = edge_find_operator(program, &stored);
    if (*op == NULL)
      return edge_set_error(error, EDGE_UNSUPPORTED, "not an operator of the core: %s", stored.label.text);
    wanted = (*op)->arg_count;
  }
  if (call->args.count < wanted || call->args.count > EDGE_MAX_ARGUMENTS) {
    return edge_set_error(
        error, EDGE_BAD_FILE,
        "instruction %lu, %s: %lu arguments, %lu wanted; the program is damaged or from another version of ExecuTorch",
        (unsigned long)index, stored.label.text, (unsigned long)call->args.count, (unsigned long)wanted);
  }
  return EDGE_OK;
}

static edge_status refuse_output(const edge_call *call, uint32_t index, uint32_t argument, const char *what) {
  return edge_set_error(call->error, EDGE_BAD_FILE,
                        "instruction %lu, %s: output argument %lu is %s; the file is damaged", (unsigned long)index,
                        call->op->name, (unsigned long)argument, what);
}

edge_status edge_check_call(edge_call *call, uint32_t index) {
  for (uint32_t i = edge_first_output(call->op); i < call->op->arg_count; ++i) {
    uint32_t count = edge_tensor_count(call->args[i]);
    if (call->args[i]->kind != EDGE_TENSOR && call->args[i]->kind != EDGE_TENSOR_LIST) {
      return refuse_output(call, index, i, "no tensor");
    }
    for (uint32_t j = 0; j < count; ++j) {
      const edge_tensor *tensor = edge_tensor_at(call->args[i], j);
      if (tensor == NULL) return refuse_output(call, index, i, "a list with a gap");
      if (tensor->constant) return refuse_output(call, index, i, "a constant");
    }
  }
  edge_status status = call->op->check(call);
  if (status == EDGE_OK) return EDGE_OK;
  edge_locate_error(call->error, index);
  /* To an operator its arguments are the caller's doing; here they are the program's, which another engine may run. */
  if (status == EDGE_BAD_ARGUMENT) call->error->status = EDGE_UNSUPPORTED;
  return call->error->status;
}

bool edge_is_covered(const edge_call *call, uint32_t argument) {
  if (!(call->op->covers >> argument & 1u) || call->args[argument]->kind != EDGE_TENSOR) return false;
  const edge_tensor *input = &call->args[argument]->as.tensor;
  const edge_tensor *output = &call->args[edge_first_output(call->op)]->as.tensor; /* `covers` promises that it is one */
  return !input->constant && input->data != NULL && input->data == output->data && input->bytes == output->bytes &&
         input->dtype == output->dtype;
}

uint32_t edge_tensor_count(const edge_value *value) {
  return value->kind == EDGE_TENSOR ? 1 : value->kind == EDGE_TENSOR_LIST ? value->count : 0;
}

const edge_tensor *edge_tensor_at(const edge_value *value, uint32_t index) {
  if (value->kind == EDGE_TENSOR) return &value->as.tensor;
  const edge_value *entry = value->as.tensors[index];
  return entry->kind == EDGE_TENSOR ? &entry->as.tensor : NULL;
}
