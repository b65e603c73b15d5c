/* What each command does: bodies and answers as docs/protocol.md has them. */
#include <string.h>

#include "bytes.h"
#include "device.h"
#include "op.h"

#ifndef EDGE_FIRMWARE_VERSION
#define EDGE_FIRMWARE_VERSION "0.1.0"
#endif

/* Firmware that was not built with all of the core's operators says which it has. */
#ifdef EDGE_OPERATORS_HEADER
#include EDGE_OPERATORS_HEADER
static const uint8_t built_operators[] = {EDGE_BUILT_OPERATORS_TOLD};
#endif

enum { INFO_BYTES = 224 };

/* What a command gets and gives. */
typedef struct exchange {
  edge_device *device;
  const uint8_t *body;
  size_t count;
  uint8_t *answer; /* room for EDGE_FRAME_BODY */
  size_t answered;
  edge_error *why;
} exchange;

static edge_refusal wrong_length(const exchange *x) {
  return edge_refuse(x->why, EDGE_WRONG_LENGTH, "the command does not take a body of %lu bytes",
                     (unsigned long)x->count);
}

static edge_refusal out_of_range(const exchange *x) {
  return edge_refuse(x->why, EDGE_OUT_OF_RANGE, "an index or offset is out of range");
}

static edge_refusal no_model(const exchange *x) {
  return edge_refuse(x->why, EDGE_NO_MODEL, "no model runs on this device");
}

static void put32(exchange *x, uint32_t value) {
  edge_put32(x->answer + x->answered, value);
  x->answered += 4;
}

static void put_bytes(exchange *x, const void *bytes, size_t count) {
  memcpy(x->answer + x->answered, bytes, count);
  x->answered += count;
}

static void put_text(exchange *x, const char *text, size_t width) {
  const size_t length = strlen(text);
  memset(x->answer + x->answered, 0, width);
  memcpy(x->answer + x->answered, text, length < width ? length : width);
  x->answered += width;
}

static edge_refusal info(exchange *x) {
  const edge_device *device = x->device;
  const edge_running *running = &device->running;
  const bool runs = running->model != NULL;
  const edge_commit *commit = &device->commit;
  size_t memory;
  edge_model_memory(&memory);
  uint8_t *a = x->answer;
  memset(a, 0, INFO_BYTES);
  edge_put16(a, EDGE_PROTOCOL_VERSION);
  edge_put16(a + 2, EDGE_PROGRAM_ABI);
  edge_put16(a + 4, EDGE_CHUNK_BYTES);
  edge_put16(a + 6, EDGE_STORAGE_PROGRAM_BYTES);
  edge_put32(a + 8, EDGE_STORAGE_ERASE_BYTES);
  edge_put32(a + 12, EDGE_SLOT_BYTES);
  edge_put32(a + 16, EDGE_LEARNED_BYTES);
  edge_put32(a + 20, (uint32_t)memory);
  edge_put32(a + 24, runs ? (uint32_t)running->manifest.block_bytes : 0);
  a[28] = commit->active;
  a[29] = commit->trial;
  a[30] = running->slot;
  a[31] = commit->trial_boots;
  a[32] = commit->trial_result;
  a[33] = device->trouble;
  a[34] = device->has_identity;
  a[35] = running->learner != NULL;
  edge_put32(a + 36, commit->floor);
  edge_put32(a + 40, commit->active_sequence);
  edge_put32(a + 44, runs ? running->manifest.sequence : 0);
  edge_put32(a + 48, commit->trial_sequence);
  edge_put32(a + 52, commit->counter);
  if (device->has_identity) memcpy(a + 56, device->identity.id, EDGE_DEVICE_ID_BYTES);
  if (runs) {
    const uint8_t *manifest = running->manifest.bytes;
    memcpy(a + 72, manifest + EDGE_AT_SHA256, 8);
    memcpy(a + 80, manifest + EDGE_AT_NAME, EDGE_NAME_LENGTH);
    memcpy(a + 112, manifest + EDGE_AT_VERSION, EDGE_VERSION_LENGTH);
    edge_put16(a + 128, (uint16_t)edge_input_count(running->model));
    edge_put16(a + 130, (uint16_t)edge_output_count(running->model));
    edge_put32(a + 132, (uint32_t)edge_instruction_count(running->model));
    edge_put32(a + 136, (uint32_t)running->input_bytes);
    edge_put32(a + 140, (uint32_t)running->output_bytes);
    edge_put32(a + 144, running->manifest.program_bytes);
    edge_put32(a + 148, running->manifest.description_bytes);
  }
  x->answered = 152;
  put_text(x, EDGE_BOARD_TARGET, 24);
  put_text(x, EDGE_BOARD_NAME, 24);
  put_text(x, EDGE_FIRMWARE_VERSION, 24);
#ifdef EDGE_OPERATORS_HEADER
  put_bytes(x, built_operators, sizeof built_operators);
#endif
  return EDGE_DONE;
}

static edge_refusal describe_port(exchange *x) {
  const edge_running *running = &x->device->running;
  if (x->count != 2) return wrong_length(x);
  if (running->model == NULL) return no_model(x);
  const bool output = x->body[0] == 1;
  const size_t index = x->body[1];
  const edge_tensor *tensor = output ? edge_output(running->model, index) : edge_input(running->model, index);
  if (x->body[0] > 1 || tensor == NULL) return out_of_range(x);
  const uint8_t head[4] = {tensor->dtype, tensor->rank, 0, 0};
  put_bytes(x, head, sizeof head);
  put32(x, (uint32_t)tensor->bytes);
  for (uint8_t i = 0; i < tensor->rank; ++i) put32(x, (uint32_t)tensor->sizes[i]);
  return EDGE_DONE;
}

static edge_refusal read_description(exchange *x) {
  const edge_running *running = &x->device->running;
  if (x->count != 4) return wrong_length(x);
  if (running->model == NULL) return no_model(x);
  const uint32_t offset = edge_get32(x->body), all = running->manifest.description_bytes;
  if (offset > all) return out_of_range(x);
  const uint32_t left = all - offset, count = left < EDGE_CHUNK_BYTES ? left : EDGE_CHUNK_BYTES;
  put_bytes(x, edge_payload(running->slot) + running->manifest.payload_bytes - left, count);
  return EDGE_DONE;
}

static edge_refusal tell_trouble(exchange *x) {
  const char *text = x->device->trouble == 0 ? "" : x->device->trouble_text.text;
  put_bytes(x, text, strlen(text));
  return EDGE_DONE;
}

static edge_refusal tell_stats(exchange *x) {
  const edge_stats *stats = &x->device->stats;
  put32(x, stats->frames);
  put32(x, stats->damaged);
  put32(x, stats->repeated);
  put32(x, stats->refused);
  put32(x, stats->runs);
  put32(x, stats->chunks);
  put32(x, stats->lessons);
  put32(x, x->device->running.ticks);
  put32(x, board_ticks());
  return EDGE_DONE;
}

static edge_refusal verify(exchange *x) {
  edge_manifest manifest;
  if (x->count != 1) return wrong_length(x);
  if (x->body[0] > 1) return out_of_range(x);
  const edge_refusal refusal = edge_check_slot(&x->device->identity, x->body[0], &manifest, x->why);
  if (refusal != EDGE_DONE) return refusal;
  put_bytes(x, manifest.bytes, EDGE_SIGNED_BYTES);
  return EDGE_DONE;
}

static edge_refusal take_input(exchange *x) {
  edge_running *running = &x->device->running;
  if (x->count <= 4) return wrong_length(x);
  if (running->model == NULL) return no_model(x);
  const size_t offset = edge_get32(x->body), count = x->count - 4;
  /* In order, or once more from the beginning. */
  if (offset != 0 && offset != running->input_filled) {
    return edge_refuse(x->why, EDGE_WRONG_OFFSET, "the piece is for byte %lu of the inputs, the next is %lu",
                       (unsigned long)offset, (unsigned long)running->input_filled);
  }
  if (count > running->input_bytes || offset > running->input_bytes - count) return out_of_range(x);
  if (offset == 0) running->has_output = false; /* inputs may lie where outputs lay */
  for (size_t done = 0; done < count;) {
    size_t room;
    uint8_t *to = edge_port_bytes(running, false, offset + done, &room);
    if (room > count - done) room = count - done;
    memcpy(to, x->body + 4 + done, room);
    done += room;
  }
  running->input_filled = offset + count;
  put32(x, (uint32_t)running->input_filled);
  return EDGE_DONE;
}

static edge_refusal put_output(exchange *x, size_t offset, size_t count) {
  const edge_running *running = &x->device->running;
  if (!running->has_output) return edge_refuse(x->why, EDGE_NO_INPUT, "there is no output: the model has not run");
  if (offset > running->output_bytes) return out_of_range(x);
  if (count > running->output_bytes - offset) count = running->output_bytes - offset;
  while (count > 0) {
    size_t room;
    const uint8_t *from = edge_port_bytes(running, true, offset, &room);
    if (room > count) room = count;
    put_bytes(x, from, room);
    offset += room;
    count -= room;
  }
  return EDGE_DONE;
}

static edge_refusal run(exchange *x) {
  if (x->count != 1 || x->body[0] > 1) return wrong_length(x);
  edge_running *running = &x->device->running;
  const bool profiled = x->body[0] == 1;
  const edge_refusal refusal = edge_run_model(running, profiled, x->why);
  if (refusal != EDGE_DONE) return refusal;
  ++x->device->stats.runs;
  put32(x, running->ticks);
  put32(x, (uint32_t)running->output_bytes);
  return running->has_output ? put_output(x, 0, EDGE_CHUNK_BYTES) : EDGE_DONE;
}

static edge_refusal read_output(exchange *x) {
  if (x->count != 4) return wrong_length(x);
  return put_output(x, edge_get32(x->body), EDGE_CHUNK_BYTES);
}

/* As many instructions from `first` on as fit: u32 ticks, u32 macs, u8 rank of the first output, u8 length of the name,
 * i32 sizes, name. */
static edge_refusal read_profile(exchange *x) {
  const edge_running *running = &x->device->running;
  if (x->count != 4) return wrong_length(x);
  const uint32_t first = edge_get32(x->body);
  if (first > running->profiled) return out_of_range(x);
  if (running->profiled == 0) return edge_refuse(x->why, EDGE_NO_PROFILE, "no run was profiled");
  for (uint32_t i = first; i < running->profiled; ++i) {
    const edge_call *call = edge_instruction(running->model, i);
    const edge_value *output = call->args[edge_first_output(call->op)];
    const edge_tensor *tensor = output->kind == EDGE_TENSOR ? &output->as.tensor : NULL;
    const uint8_t rank = tensor == NULL ? 0 : tensor->rank;
    const size_t length = strlen(call->op->name);
    if (x->answered + 10 + 4u * rank + length > EDGE_CHUNK_BYTES) break;
    put32(x, edge_profiled_ticks(running, i));
    put32(x, call->macs > UINT32_MAX ? UINT32_MAX : (uint32_t)call->macs);
    const uint8_t counts[2] = {rank, (uint8_t)length};
    put_bytes(x, counts, sizeof counts);
    for (uint8_t j = 0; j < rank; ++j) put32(x, (uint32_t)tensor->sizes[j]);
    put_bytes(x, call->op->name, length);
  }
  return EDGE_DONE;
}

static edge_refusal begin(exchange *x) {
  if (x->count != EDGE_MANIFEST_BYTES) return wrong_length(x);
  const edge_refusal refusal = edge_begin(x->device, x->body, x->why);
  if (refusal != EDGE_DONE) return refusal;
  put32(x, x->device->transfer.slot);
  put32(x, x->device->transfer.next);
  put32(x, x->device->transfer.total);
  return EDGE_DONE;
}

static edge_refusal take_chunk(exchange *x) {
  if (x->count <= 4 || x->count > 4 + EDGE_CHUNK_BYTES) return wrong_length(x);
  const edge_refusal refusal =
      edge_write_chunk(x->device, edge_get32(x->body), x->body + 4, x->count - 4, x->why);
  if (refusal == EDGE_DONE) put32(x, x->device->transfer.next);
  return refusal;
}

static edge_refusal activate(exchange *x) {
  if (x->count != 8) return wrong_length(x);
  return edge_activate(x->device, edge_get32(x->body), edge_get32(x->body + 4), x->why);
}

static edge_refusal roll_back(exchange *x) {
  if (x->count != 4) return wrong_length(x);
  return edge_roll_back(x->device, edge_get32(x->body), x->why);
}

/* --- learning ---------------------------------------------------------------------------------------------------- */

static edge_refusal read_plan(const exchange *x, edge_learn_plan *plan) {
  if (x->count != 16) return wrong_length(x);
  plan->layers = edge_get32(x->body);
  plan->classes = edge_get32(x->body + 4);
  memcpy(&plan->learning_rate, x->body + 8, sizeof plan->learning_rate);
  plan->loss = edge_get32(x->body + 12);
  return EDGE_DONE;
}

static void put_budget(exchange *x, const edge_learn_budget *need) {
  put32(x, (uint32_t)need->total_bytes);
  put32(x, (uint32_t)need->weight_bytes);
  put32(x, (uint32_t)need->activation_bytes);
  put32(x, (uint32_t)need->gradient_bytes);
  put32(x, need->layers);
  put32(x, need->classes);
  put32(x, need->parameters);
  put32(x, need->body);
  size_t room;
  edge_running bare = x->device->running;
  bare.learner_bytes = 0;
  edge_free_memory(&bare, &room);
  put32(x, (uint32_t)room);
}

static edge_refusal learn_budget(exchange *x) {
  edge_learn_plan plan;
  edge_learn_budget need;
  edge_refusal refusal = read_plan(x, &plan);
  if (refusal == EDGE_DONE) refusal = edge_measure_lessons(x->device, &plan, &need, x->why);
  if (refusal == EDGE_DONE) put_budget(x, &need);
  return refusal;
}

static edge_refusal start_learning(exchange *x) {
  edge_learn_plan plan;
  edge_learn_budget need;
  edge_refusal refusal = read_plan(x, &plan);
  if (refusal == EDGE_DONE) refusal = edge_start_lessons(x->device, &plan, x->why);
  if (refusal == EDGE_DONE) refusal = edge_measure_lessons(x->device, &plan, &need, x->why);
  if (refusal == EDGE_DONE) put_budget(x, &need);
  return refusal;
}

/* f32 learning rate, then u32 class; or, longer, a value for each class. */
static edge_refusal learn(exchange *x) {
  edge_running *running = &x->device->running;
  if (running->learner == NULL) return edge_refuse(x->why, EDGE_CANNOT_LEARN, "learning was not started");
  if (running->input_filled != running->input_bytes) {
    return edge_refuse(x->why, EDGE_NO_INPUT, "the inputs take %lu bytes, %lu have come",
                       (unsigned long)running->input_bytes, (unsigned long)running->input_filled);
  }
  float rate;
  size_t classes;
  edge_learn_outputs(running->learner, &classes);
  const bool by_class = x->count == 9 && x->body[0] == 0, by_target = x->count == 5 + 4 * classes && x->body[0] == 1;
  if (!by_class && !by_target) return wrong_length(x);
  memcpy(&rate, x->body + 1, sizeof rate);
  if (!(rate > 0) || rate > 1e6f) return out_of_range(x);
  edge_learn_set_rate(running->learner, rate);
  running->input_filled = 0;
  running->has_output = false;
  running->profiled = 0;
  edge_learn_result result;
  edge_status status;
  if (by_class) {
    status = edge_learn_class(running->learner, edge_get32(x->body + 5), &result, x->why);
  } else {
    /* The answer's memory is free until it is written, and aligned for floats where a frame's body is not. */
    memcpy(x->answer, x->body + 5, 4 * classes);
    status = edge_learn_target(running->learner, (const float *)(const void *)x->answer, &result, x->why);
  }
  if (status != EDGE_OK) return status == EDGE_BAD_ARGUMENT ? EDGE_OUT_OF_RANGE : EDGE_RUN_FAILED;
  ++x->device->stats.lessons;
  put32(x, result.predicted);
  put_bytes(x, &result.fit, sizeof result.fit);
  put32(x, edge_learn_samples(running->learner));
  return EDGE_DONE;
}

static edge_refusal get_weights(exchange *x) {
  if (x->count != 4) return wrong_length(x);
  if (x->device->running.learner == NULL) {
    return edge_refuse(x->why, EDGE_CANNOT_LEARN, "learning was not started");
  }
  const size_t all = edge_lesson_bytes(x->device), offset = edge_get32(x->body);
  if (offset > all) return out_of_range(x);
  put32(x, (uint32_t)all);
  x->answered += edge_read_lessons(x->device, offset, x->answer + 4, EDGE_CHUNK_BYTES);
  return EDGE_DONE;
}

static edge_refusal set_weights(exchange *x) {
  if (x->count <= 4 || x->count > 4 + EDGE_CHUNK_BYTES) return wrong_length(x);
  return edge_write_lessons(x->device, edge_get32(x->body), x->body + 4, x->count - 4, x->why);
}

edge_refusal edge_obey(edge_device *device, uint8_t command, const uint8_t *body, size_t count, uint8_t *answer,
                       size_t *answer_bytes, edge_error *why) {
  exchange x = {device, body, count, answer, 0, why};
  edge_refusal refusal;
  switch (command) {
    case EDGE_INFO: refusal = info(&x); break;
    case EDGE_PORT: refusal = describe_port(&x); break;
    case EDGE_DESCRIPTION: refusal = read_description(&x); break;
    case EDGE_TROUBLE: refusal = tell_trouble(&x); break;
    case EDGE_STATS: refusal = tell_stats(&x); break;
    case EDGE_VERIFY: refusal = verify(&x); break;
    case EDGE_INPUT: refusal = take_input(&x); break;
    case EDGE_RUN: refusal = run(&x); break;
    case EDGE_OUTPUT: refusal = read_output(&x); break;
    case EDGE_PROFILE: refusal = read_profile(&x); break;
    case EDGE_LEARN_BUDGET: refusal = learn_budget(&x); break;
    case EDGE_GET_WEIGHTS: refusal = get_weights(&x); break;
    case EDGE_BEGIN: refusal = begin(&x); break;
    case EDGE_CHUNK: refusal = take_chunk(&x); break;
    case EDGE_END: refusal = edge_end(device, why); break;
    case EDGE_ACTIVATE: refusal = activate(&x); break;
    case EDGE_ROLL_BACK: refusal = roll_back(&x); break;
    case EDGE_RESET: refusal = EDGE_DONE; break; /* serve.c does it, after the answer */
    case EDGE_START_LEARNING: refusal = start_learning(&x); break;
    case EDGE_LEARN: refusal = learn(&x); break;
    case EDGE_SET_WEIGHTS: refusal = set_weights(&x); break;
    case EDGE_TAKE_WEIGHTS: refusal = edge_take_lessons(device, why); break;
    case EDGE_KEEP_WEIGHTS: refusal = edge_keep_lessons(device, why); break;
    case EDGE_FORGET_WEIGHTS: refusal = edge_forget_lessons(device, why); break;
    default:
      refusal = edge_refuse(why, EDGE_UNKNOWN_COMMAND, "this firmware does not know command 0x%02x", command);
  }
  *answer_bytes = x.answered;
  return refusal;
}
