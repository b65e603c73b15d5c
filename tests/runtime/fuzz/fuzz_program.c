/* Feeds damaged programs to the core and runs those that it accepts: fuzz_program SEED FIRST COUNT FILE...
 *
 * Built with AddressSanitizer and UndefinedBehaviorSanitizer, which end the process at the first fault. Each case
 * copies a program to a heap buffer of exactly its size and damages it; case N of a seed is the same on every machine,
 * so a fault is reproduced with FIRST = N, COUNT = 1. An accepted program runs twice: as edge_run does, and call by
 * call with every tensor copied to a heap buffer of exactly its size, so that an operator that strays from one tensor
 * into the next is seen too. Afterwards the program's bytes and the model's tables must be what they were.
 *
 * Prints "refused: N bad-file, N unsupported, N bad-argument; too large: N; ran: N, of which N stopped".
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "edge_core.h"
#include "op.h"
#include "program.h"

#define MAX_BLOCK_BYTES ((size_t)64 << 20)
/* Work allowed to one case: multiply-accumulates and bytes touched. A hostile program may well be slow; a fuzzer may
 * not. */
#define MAX_MACS 2000000
#define MAX_TOUCHED 2000000
#define CASE_SECONDS 60

/* Where the undamaged file holds a number that means something. */
typedef struct field {
  uint32_t at;
  uint8_t width;
  bool size; /* a dimension of a tensor */
} field;

#define MAX_FIELDS 16384

typedef struct file {
  uint8_t *bytes;
  size_t size;
  size_t program_bytes; /* the part before the segments, where the structure is */
  field *fields;
  size_t field_count;
  uint32_t memory_at; /* position of the size of the first planned buffer */
} file;

static uint64_t random_state;

static uint64_t next_random(void) { /* splitmix64 */
  uint64_t z = random_state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

static size_t below(size_t limit) { return limit == 0 ? 0 : (size_t)(next_random() % limit); }

static void die(const char *text, unsigned long number) {
  fprintf(stderr, "fuzz_program: case %lu: %s\n", number, text);
  abort();
}

/* ---- fields ----------------------------------------------------------------------------------------------------- */

static void note(file *file, uint32_t at, uint8_t width) {
  if (file->field_count < MAX_FIELDS) file->fields[file->field_count++] = (field){at, width, false};
}

static void note_list(file *file, const fb_vector *list, uint8_t width) {
  for (uint32_t i = 0; i < list->count; ++i) note(file, list->at + i * width, width);
}

/* Every field that a table has, as a number of `width` bytes. */
static void note_field(file *file, const fb_table *table, uint32_t number, uint8_t width) {
  if (number >= table->field_count) return;
  uint32_t offset =
      file->bytes[table->fields_at + 2 * number] | (uint32_t)file->bytes[table->fields_at + 2 * number + 1] << 8;
  if (offset != 0) note(file, table->at + offset, width);
}

/* Finds the numbers of a good program: kinds, dtypes, sizes, dim orders, indices, offsets, ints, doubles, arguments. */
static void find_fields(file *file) {
  edge_program program;
  edge_error error;
  file->fields = calloc(MAX_FIELDS, sizeof *file->fields);
  if (file->fields == NULL || edge_open_program(&program, file->bytes, file->size, &error) != EDGE_OK) exit(2);
  const fb_reader *reader = &program.reader;
  for (uint32_t i = 0; i < program.values.count; ++i) {
    fb_table value, body, allocation;
    fb_vector list;
    bool present;
    uint8_t kind = 0;
    if (!fb_list_table(reader, &program.values, i, "", &value) || !fb_u8(reader, &value, 0, "", &kind) ||
        !fb_child(reader, &value, 1, "", &body, &present)) {
      exit(2);
    }
    note_field(file, &value, 0, 1);
    switch (kind) {
      case 2:
      case 4: note_field(file, &body, 0, 8); break;
      case 3: note_field(file, &body, 0, 1); break;
      case 5:
        note_field(file, &body, 0, 1);
        note_field(file, &body, 5, 4);
        if (fb_list(reader, &body, 3, 1, "", &list)) note_list(file, &list, 1);
        if (fb_list(reader, &body, 2, 4, "", &list)) {
          size_t first = file->field_count;
          note_list(file, &list, 4);
          for (size_t j = first; j < file->field_count; ++j) file->fields[j].size = true;
        }
        if (fb_child(reader, &body, 6, "", &allocation, &present) && present) {
          note_field(file, &allocation, 0, 4);
          note_field(file, &allocation, 1, 4);
        }
        break;
      case 7:
      case 8:
        if (fb_list(reader, &body, 0, 8, "", &list)) note_list(file, &list, 8);
        break;
      case 10:
      case 11:
        if (fb_list(reader, &body, 0, 4, "", &list)) note_list(file, &list, 4);
        break;
    }
  }
  for (uint32_t i = 0; i < program.instructions.count; ++i) {
    edge_stored_call call;
    fb_table instruction, body;
    bool present;
    if (edge_read_call(&program, i, &call) != EDGE_OK) exit(2);
    note_list(file, &call.args, 4);
    if (fb_list_table(reader, &program.instructions, i, "", &instruction) &&
        fb_child(reader, &instruction, 1, "", &body, &present) && present) {
      note_field(file, &body, 0, 4);
    }
  }
  note_list(file, &program.inputs, 4);
  note_list(file, &program.outputs, 4);
  note_list(file, &program.memories, 8);
  note_list(file, &program.constant_offsets, 8);
  if (program.memories.count > 1) file->memory_at = program.memories.at + 8;
}

/* ---- damage ----------------------------------------------------------------------------------------------------- */

static uint32_t get_word(const uint8_t *at) {
  uint32_t word;
  memcpy(&word, at, sizeof word);
  return word;
}

static void set_word(uint8_t *at, uint32_t word) { memcpy(at, &word, sizeof word); }

/* A word that is likely to be wrong in an interesting way. */
static uint32_t hostile_word(uint32_t old, size_t at, size_t size) {
  static const uint32_t extremes[] = {0,       1,          2,          0x7f,        0xff,        0x7fff,     0xffff,
                                      0x10000, 0x7ffffff0, 0x7fffffff, 0x80000000u, 0xfffffff0u, 0xffffffffu};
  static const size_t widths[] = {1, 4, 8};
  switch (below(6)) {
    case 0: return extremes[below(sizeof extremes / sizeof *extremes)];
    case 1: return old + (uint32_t)below(33) - 16;
    case 2: return (uint32_t)(size - below(40));
    case 3: return (uint32_t)below(64);
    case 4: return (uint32_t)((size - at) / widths[below(3)] - below(3)); /* a count that ends where the bytes end */
    default: return old << below(8);
  }
}

/* A word of the structure that looks like an offset (`offset`) or like a count, size, index or enum. */
static size_t find_word(const uint8_t *bytes, size_t size, bool offset) {
  for (int attempt = 0; attempt < 200; ++attempt) {
    size_t at = 4 * below(size / 4);
    uint32_t word = get_word(bytes + at);
    bool looks_like_offset = word >= 4 && word % 4 == 0 && word < size - at;
    if (offset ? looks_like_offset : word < 4096 || word == UINT32_MAX) return at;
  }
  return 4 * below(size / 4);
}

/* Gives a dimension another size wherever it occurs, so that the shapes still fit each other. */
static void rename_dimension(uint8_t *bytes, size_t size, const file *base) {
  const field *chosen = &base->fields[below(base->field_count)];
  for (int attempt = 0; attempt < 50 && !chosen->size; ++attempt) chosen = &base->fields[below(base->field_count)];
  if (!chosen->size || chosen->at + 4 > size) return;
  uint32_t old = get_word(bytes + chosen->at), new = (uint32_t)below(below(2) ? 4 : old + 3);
  for (size_t i = 0; i < base->field_count; ++i) {
    const field *field = &base->fields[i];
    if (field->size && field->at + 4 <= size && get_word(bytes + field->at) == old) set_word(bytes + field->at, new);
  }
}

/* Changes one meaningful number and leaves the structure whole, so that the planner and the operators must judge. */
static void change_field(uint8_t *bytes, size_t size, const file *base) {
  const field *target = &base->fields[below(base->field_count)];
  const field *other = &base->fields[below(base->field_count)];
  /* Kinds, dtypes and dim orders are many and seldom survive. */
  for (int attempt = 0; attempt < 3 && target->width == 1; ++attempt) target = &base->fields[below(base->field_count)];
  if (target->at + target->width > size || other->at + other->width > size) return;
  if (target->width == 1) {
    bytes[target->at] = (uint8_t)below(below(2) ? 14 : 256);
    return;
  }
  uint32_t word = get_word(bytes + target->at);
  switch (below(4)) {
    case 0: word += (uint32_t)below(9) - 4; break;
    case 1: word = other->width == 1 ? bytes[other->at] : get_word(bytes + other->at); break;
    case 2: word = (uint32_t)below(20); break;
    default: word = hostile_word(word, target->at, size); break;
  }
  set_word(bytes + target->at, word);
  if (target->width == 8 && below(3) == 0) set_word(bytes + target->at + 4, hostile_word(0, 0, size));
}

/* One to three changes of numbers; half the time with planned memory to spare, so that larger tensors fit. */
static void change_numbers(uint8_t *bytes, size_t size, const file *base) {
  if (base->memory_at != 0 && base->memory_at + 4 <= size && below(2)) set_word(bytes + base->memory_at, 1 << 20);
  if (below(3) == 0) {
    rename_dimension(bytes, size, base);
    if (below(2)) return;
  }
  for (size_t count = 1 + below(4) / 2; count > 0; --count) change_field(bytes, size, base);
}

static void damage(uint8_t *bytes, size_t size, const file *other) {
  if (size < 64) return;
  size_t at = below(size), other_at, count;
  switch (below(10)) {
    case 0: bytes[at] ^= (uint8_t)(1u << below(8)); break;
    case 1: bytes[at] = (uint8_t)next_random(); break;
    case 2:
      at = 2 * below(size / 2);
      bytes[at] = (uint8_t)(2 * below(40)); /* a vtable's entry */
      bytes[at + 1] = 0;
      break;
    case 3:
    case 4:
      at = find_word(bytes, size, false);
      set_word(bytes + at, hostile_word(get_word(bytes + at), at, size));
      break;
    case 5: /* point somewhere else, or to a count just before the end */
      at = find_word(bytes, size, true);
      other_at = at + 4 * below((size - at) / 4);
      if (below(2)) {
        other_at = (size - 4 * (1 + below(8))) & ~(size_t)3;
        memset(bytes + other_at, 0, size - other_at); /* elements of zero: value 0 is always there */
        bytes[other_at] = (uint8_t)below(12);
      }
      set_word(bytes + at, (uint32_t)(other_at - at));
      break;
    case 6: /* point to what another offset points to: the right structure in the wrong place */
      at = find_word(bytes, size, true);
      other_at = find_word(bytes, size, true);
      set_word(bytes + at, (uint32_t)(other_at + get_word(bytes + other_at) - at));
      break;
    case 7: /* swap two small numbers: a size for an index, one value for another */
      at = find_word(bytes, size, false);
      other_at = find_word(bytes, size, false);
      {
        uint32_t word = get_word(bytes + at);
        set_word(bytes + at, get_word(bytes + other_at));
        set_word(bytes + other_at, word);
      }
      break;
    case 8: /* a number of 64 bits: a segment, a memory, an int, a double */
      at = 8 * below(size / 8);
      if (at + 8 > size) break;
      set_word(bytes + at, hostile_word(get_word(bytes + at), at, size));
      set_word(bytes + at + 4, below(2) ? 0 : hostile_word(0, 0, size));
      break;
    default: /* splice */
      count = 1 + below(64);
      other_at = below(other->program_bytes);
      if (count > size - at) count = size - at;
      if (count > other->program_bytes - other_at) count = other->program_bytes - other_at;
      memcpy(bytes + at, other->bytes + other_at, count);
  }
}

/* A damaged copy of one of the files, in a buffer of exactly its size. */
static uint8_t *make_case(const file *files, size_t file_count, size_t *size) {
  const file *base = &files[below(file_count)];
  bool keep_structure = below(10) < 7;
  *size = base->size;
  bool headless = false;
  switch (keep_structure ? 0 : below(12)) {
    case 1: *size = below(base->size + 1); break;      /* truncated */
    case 2: *size = base->size + 1 + below(64); break; /* extended */
    case 3:                                            /* without header and segments: structure to the last byte */
      *size = base->program_bytes;
      headless = true;
      break;
  }
  uint8_t *bytes = malloc(*size + (*size == 0));
  if (bytes == NULL) exit(2);
  for (size_t i = 0; i < *size; ++i) bytes[i] = i < base->size ? base->bytes[i] : (uint8_t)next_random();
  if (headless) bytes[8] ^= 1;
  if (keep_structure) {
    change_numbers(bytes, *size, base);
    return bytes;
  }
  size_t structure = base->program_bytes < *size ? base->program_bytes : *size;
  for (size_t count = 1 + below(4); count > 0; --count) {
    damage(bytes, below(16) == 0 ? *size : structure, &files[below(file_count)]);
  }
  return bytes;
}

/* ---- running ---------------------------------------------------------------------------------------------------- */

static void fill_inputs(edge_model *model) {
  for (size_t i = 0; i < edge_input_count(model); ++i) {
    edge_tensor *input = edge_input(model, i);
    uint8_t *bytes = input->data;
    for (size_t j = 0; j < input->bytes; ++j) bytes[j] = (uint8_t)next_random(); /* NaN and infinity among them */
    bool sane = below(4) != 0;
    for (size_t j = 0; sane && input->dtype == EDGE_INT64 && j < input->bytes / 8; ++j) {
      int64_t index = (int64_t)below(12) - 2;
      memcpy(bytes + 8 * j, &index, sizeof index);
    }
    if (sane && input->dtype == EDGE_FLOAT32) {
      for (size_t j = 0; j < input->bytes / 4; ++j) {
        float value = (float)((double)below(4001) / 1000.0 - 2.0);
        memcpy(bytes + 4 * j, &value, sizeof value);
      }
    }
  }
}

static size_t value_bytes(const edge_value *value) {
  size_t total = 0;
  if (value->kind == EDGE_TENSOR) total = value->as.tensor.bytes;
  for (uint32_t i = 0; value->kind == EDGE_TENSOR_LIST && i < value->count; ++i) {
    total += value_bytes(value->as.tensors[i]);
  }
  return total;
}

static bool affordable(const edge_model *model, uint64_t macs) {
  size_t touched = 0;
  for (size_t i = 0; i < edge_instruction_count(model) && touched <= MAX_TOUCHED; ++i) {
    const edge_call *call = edge_instruction(model, i);
    for (uint32_t j = 0; j < call->arg_count; ++j) touched += value_bytes(call->args[j]);
    touched += call->scratch_bytes + 64;
  }
  return macs <= MAX_MACS && touched <= MAX_TOUCHED;
}

static void *copy_of(const void *bytes, size_t size) {
  void *copy = malloc(size + (size == 0));
  if (copy == NULL) exit(2);
  if (size > 0) memcpy(copy, bytes, size);
  return copy;
}

/* A copy of a value whose tensors, those of a list included, have heap buffers of their own. */
static edge_value *isolate(const edge_value *value) {
  edge_value *copy = copy_of(value, sizeof *value);
  if (value->kind == EDGE_TENSOR) copy->as.tensor.data = copy_of(value->as.tensor.data, value->as.tensor.bytes);
  if (value->kind == EDGE_TENSOR_LIST) {
    edge_value **entries = copy_of(value->as.tensors, value->count * sizeof *entries);
    for (uint32_t i = 0; i < value->count; ++i) entries[i] = isolate(value->as.tensors[i]);
    copy->as.tensors = entries;
  }
  return copy;
}

static void release(edge_value *value) {
  if (value->kind == EDGE_TENSOR) free(value->as.tensor.data);
  if (value->kind == EDGE_TENSOR_LIST) {
    for (uint32_t i = 0; i < value->count; ++i) release((edge_value *)value->as.tensors[i]);
    free((void *)value->as.tensors);
  }
  free(value);
}

static void copy_back(const edge_value *target, const edge_value *source) {
  if (target->kind == EDGE_TENSOR && target->as.tensor.bytes > 0) {
    memcpy(target->as.tensor.data, source->as.tensor.data, target->as.tensor.bytes);
  }
  for (uint32_t i = 0; target->kind == EDGE_TENSOR_LIST && i < target->count; ++i) {
    copy_back(target->as.tensors[i], source->as.tensors[i]);
  }
}

static edge_status run_isolated(edge_model *model, edge_error *error) {
  edge_status status = EDGE_OK;
  for (size_t i = 0; status == EDGE_OK && i < edge_instruction_count(model); ++i) {
    const edge_call *original = edge_instruction(model, i);
    edge_call call = *original;
    edge_value *args[256];
    for (uint32_t j = 0; j < call.arg_count; ++j) args[j] = isolate(original->args[j]);
    call.args = args;
    call.error = error;
    call.scratch = malloc(call.scratch_bytes + (call.scratch_bytes == 0));
    if (call.scratch == NULL) exit(2);
    status = call.op->run(&call);
    for (uint32_t j = 0; j < call.arg_count; ++j) {
      if (j >= edge_first_output(call.op)) copy_back(original->args[j], args[j]);
      release(args[j]);
    }
    free(call.scratch);
  }
  return status;
}

typedef struct tally {
  unsigned long refused[4];
  unsigned long too_large, ran, stopped;
} tally;

static void run_case(const uint8_t *bytes, size_t size, unsigned long number, tally *tally) {
  edge_requirements need;
  edge_error error;
  edge_status status = edge_measure(bytes, size, NULL, &need, &error);
  if (status == EDGE_OK && (need.total_bytes > MAX_BLOCK_BYTES || need.macs > MAX_MACS)) {
    ++tally->too_large;
    return;
  }
  edge_model *model = NULL;
  uint8_t *block = NULL;
  if (status == EDGE_OK) {
    /* Not rounded up: what lies behind the block must be seen. */
    if (posix_memalign((void **)&block, EDGE_PACK_ALIGN, need.total_bytes) != 0) exit(2);
    memset(block, 0xa5, need.total_bytes);
    status = edge_prepare(bytes, size, NULL, block, need.total_bytes, &model, &error);
  }
  if (status != EDGE_OK) {
    if (error.status != status || error.text[0] == '\0' || memchr(error.text, '\0', sizeof error.text) == NULL) {
      die("refused without a reason", number);
    }
    ++tally->refused[status];
  } else if (!affordable(model, need.macs)) {
    ++tally->too_large;
  } else {
    uint8_t *program = copy_of(bytes, size);
    /* Calls carry a pointer to the error of their last run, so that the tables settle with the first. */
    fill_inputs(model);
    status = edge_run(model, NULL, NULL, &error);
    uint8_t *state = copy_of(block, need.packed_bytes + need.state_bytes);
    fill_inputs(model);
    edge_status isolated = run_isolated(model, &error);
    if (status == EDGE_OK) status = isolated;
    if (memcmp(program, bytes, size) != 0) die("the run wrote to the program", number);
    if (memcmp(state, block, need.packed_bytes + need.state_bytes) != 0) die("the run wrote to the model's tables", number);
    free(state);
    free(program);
    ++tally->ran;
    if (status != EDGE_OK) ++tally->stopped;
  }
  free(block);
}

static file read_file(const char *path) {
  file result = {.bytes = NULL};
  FILE *stream = fopen(path, "rb");
  if (stream == NULL || fseek(stream, 0, SEEK_END) != 0) {
    fprintf(stderr, "fuzz_program: cannot read %s\n", path);
    exit(2);
  }
  result.size = (size_t)ftell(stream);
  rewind(stream);
  result.bytes = malloc(result.size);
  if (result.bytes == NULL || fread(result.bytes, 1, result.size, stream) != result.size) exit(2);
  fclose(stream);
  result.program_bytes = result.size;
  if (result.size > 32 && memcmp(result.bytes + 8, "eh00", 4) == 0) result.program_bytes = get_word(result.bytes + 16);
  find_fields(&result);
  return result;
}

int main(int count, char **arguments) {
  if (count < 5) {
    fprintf(stderr, "usage: fuzz_program SEED FIRST COUNT FILE...\n");
    return 2;
  }
  uint64_t seed = strtoull(arguments[1], NULL, 10);
  unsigned long first = strtoul(arguments[2], NULL, 10), cases = strtoul(arguments[3], NULL, 10);
  size_t file_count = (size_t)count - 4;
  file *files = calloc(file_count, sizeof *files);
  if (files == NULL) return 2;
  for (size_t i = 0; i < file_count; ++i) files[i] = read_file(arguments[4 + i]);

  tally tally = {{0}, 0, 0, 0};
  for (unsigned long i = first; i < first + cases; ++i) {
    random_state = seed * 1000003u + i;
    size_t size;
    uint8_t *bytes = make_case(files, file_count, &size);
    alarm(CASE_SECONDS); /* a hang ends the process with SIGALRM */
    run_case(bytes, size, i, &tally);
    free(bytes);
  }
  for (size_t i = 0; i < file_count; ++i) {
    free(files[i].bytes);
    free(files[i].fields);
  }
  free(files);
  printf("refused: %lu bad-file, %lu unsupported, %lu bad-argument; too large: %lu; ran: %lu, of which %lu stopped\n",
         tally.refused[EDGE_BAD_FILE], tally.refused[EDGE_UNSUPPORTED], tally.refused[EDGE_BAD_ARGUMENT],
         tally.too_large, tally.ran, tally.stopped);
  return 0;
}
