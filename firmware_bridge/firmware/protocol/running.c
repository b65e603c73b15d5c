/* The model that runs: starting, testing and running it. */
#include <string.h>

#include "bytes.h"
#include "device.h"
#include "op.h"

static size_t port_count(const edge_running *running, bool output) {
  return output ? edge_output_count(running->model) : edge_input_count(running->model);
}

static const edge_tensor *port(const edge_running *running, bool output, size_t index) {
  return output ? edge_output(running->model, index) : edge_input(running->model, index);
}

static size_t all_bytes(const edge_running *running, bool output) {
  size_t bytes = 0;
  if (output && running->learner != NULL) {
    edge_learn_outputs(running->learner, &bytes);
    return bytes * sizeof(float);
  }
  for (size_t i = 0; i < port_count(running, output); ++i) bytes += port(running, output, i)->bytes;
  return bytes;
}

void edge_measure_ports(edge_running *running) {
  running->input_bytes = all_bytes(running, false);
  running->output_bytes = all_bytes(running, true);
  running->input_filled = 0;
  running->has_output = false;
  running->profiled = 0;
}

uint8_t *edge_port_bytes(const edge_running *running, bool output, size_t at, size_t *count) {
  if (output && running->learner != NULL) {
    *count = at < running->output_bytes ? running->output_bytes - at : 0;
    return *count == 0 ? NULL : (uint8_t *)edge_learn_outputs(running->learner, &(size_t){0}) + at;
  }
  for (size_t i = 0; i < port_count(running, output); ++i) {
    const edge_tensor *tensor = port(running, output, i);
    if (at < tensor->bytes) {
      *count = tensor->bytes - at;
      return (uint8_t *)tensor->data + at;
    }
    at -= tensor->bytes;
  }
  *count = 0;
  return NULL;
}

edge_refusal edge_start_model(edge_running *running, uint32_t slot, const edge_manifest *manifest, edge_error *why) {
  memset(running, 0, sizeof *running);
  running->slot = EDGE_NO_SLOT;
  size_t memory;
  uint8_t *block = edge_model_memory(&memory);
  edge_model *model;
  const void *program = edge_payload(slot);
  if (edge_prepare(program, manifest->program_bytes, NULL, block, memory, &model, why) != EDGE_OK) {
    return EDGE_BAD_PROGRAM;
  }
  running->model = model;
  running->slot = (uint8_t)slot;
  running->manifest = *manifest;
  edge_measure_ports(running);
  return EDGE_DONE;
}

/* As self_test_inputs in slot_image.py. */
static void fill_test_inputs(const edge_running *running) {
  uint32_t state = edge_get32(running->manifest.bytes + EDGE_AT_TEST_SEED);
  if (state == 0) state = 1;
  for (size_t i = 0; i < edge_input_count(running->model); ++i) {
    edge_tensor *input = edge_input(running->model, i);
    const bool wide = input->dtype == EDGE_FLOAT64;
    memset(input->data, 0, input->bytes);
    if (!wide && input->dtype != EDGE_FLOAT32) continue;
    const size_t count = input->bytes / (wide ? 8 : 4);
    for (size_t j = 0; j < count; ++j) {
      state ^= state << 13;
      state ^= state >> 17;
      state ^= state << 5;
      const float value = (float)((int32_t)(state >> 8) - (1 << 23)) / (float)(1 << 23);
      if (wide) {
        /* As a double's bits; the value is 0 or in float32's usual range. */
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        const uint64_t magnitude = (uint64_t)(bits & 0x7FFFFFFF) << 29;
        const uint64_t real = (uint64_t)(bits >> 31) << 63 | (magnitude == 0 ? 0 : magnitude + ((uint64_t)896 << 52));
        memcpy((char *)input->data + 8 * j, &real, sizeof real);
      } else {
        ((float *)input->data)[j] = value;
      }
    }
  }
}

edge_refusal edge_self_test(edge_running *running, edge_error *why) {
  const edge_manifest manifest = running->manifest;
  fill_test_inputs(running);
  running->input_filled = running->input_bytes;
  const edge_refusal refusal = edge_run_model(running, false, why);
  if (refusal != EDGE_DONE) return EDGE_SELF_TEST;
  const uint32_t count = edge_get32(manifest.bytes + EDGE_AT_TEST_COUNT);
  const edge_tensor *output = edge_output(running->model, 0);
  if (count > EDGE_SELF_TEST_VALUES ||
      (count > 0 && (output == NULL || output->dtype != EDGE_FLOAT32 || output->bytes < 4 * (size_t)count))) {
    return edge_refuse(why, EDGE_SELF_TEST, "the self-test does not fit the model");
  }
  float tolerance, wanted, got;
  memcpy(&tolerance, manifest.bytes + EDGE_AT_TEST_TOLERANCE, sizeof tolerance);
  for (uint32_t i = 0; i < count; ++i) {
    memcpy(&wanted, manifest.bytes + EDGE_AT_TEST_VALUES + 4 * i, sizeof wanted);
    memcpy(&got, (const uint8_t *)output->data + 4 * i, sizeof got);
    const float off = got > wanted ? got - wanted : wanted - got;
    if (!(off <= tolerance)) {
      return edge_refuse(why, EDGE_SELF_TEST, "the self-test failed at value %lu of the output", (unsigned long)i);
    }
  }
  return edge_start_model(running, running->slot, &manifest, why);
}

uint8_t *edge_free_memory(const edge_running *running, size_t *bytes) {
  size_t memory;
  uint8_t *block = edge_model_memory(&memory);
  const size_t model = running->model == NULL ? 0 : (running->manifest.block_bytes + 15) & ~(size_t)15;
  const size_t used = model + ((running->learner_bytes + 15) & ~(size_t)15);
  *bytes = memory > used ? memory - used : 0;
  return block + (memory > used ? used : memory);
}

typedef struct profile {
  uint8_t *ticks; /* four bytes an instruction, or NULL */
  uint32_t room, last;
} profile;

static void note_instruction(void *user, size_t instruction, const struct edge_call *call) {
  (void)call;
  profile *noted = user;
  board_watchdog_feed();
  if (instruction >= noted->room) return;
  const uint32_t now = board_ticks();
  edge_put32(noted->ticks + 4 * instruction, now - noted->last);
  noted->last = board_ticks();
}

edge_refusal edge_run_model(edge_running *running, bool profiled, edge_error *why) {
  if (running->model == NULL) return edge_refuse(why, EDGE_NO_MODEL, "no model runs on this device");
  if (running->input_filled != running->input_bytes) {
    return edge_refuse(why, EDGE_NO_INPUT, "the inputs take %lu bytes, %lu have come",
                       (unsigned long)running->input_bytes, (unsigned long)running->input_filled);
  }
  profile noted = {NULL, 0, 0};
  if (profiled) {
    size_t room;
    noted.ticks = edge_free_memory(running, &room);
    if (room / 4 < edge_instruction_count(running->model)) {
      return edge_refuse(why, EDGE_NO_PROFILE, "a profile takes %lu bytes behind the model; there are %lu",
                         4 * (unsigned long)edge_instruction_count(running->model), (unsigned long)room);
    }
    noted.room = (uint32_t)edge_instruction_count(running->model);
  }
  /* What was planned into the inputs' memory is written over: a run takes its inputs with it. */
  running->input_filled = 0;
  running->has_output = false;
  running->profiled = 0;
  const uint32_t start = board_ticks();
  noted.last = start;
  /* With a profile, the program alone: its instructions are what is asked for. */
  const bool learned = running->learner != NULL && !profiled;
  const edge_status status = learned ? edge_learn_predict(running->learner, why)
                                     : edge_run(running->model, note_instruction, &noted, why);
  running->ticks = board_ticks() - start;
  if (status != EDGE_OK) return EDGE_RUN_FAILED;
  running->has_output = learned || running->learner == NULL;
  running->profiled = noted.room;
  return EDGE_DONE;
}

uint32_t edge_profiled_ticks(const edge_running *running, uint32_t index) {
  size_t room;
  return edge_get32(edge_free_memory(running, &room) + 4 * index);
}
