/* Learning on the device, and the learned weights in storage.
 *
 * Storage has two copies of EDGE_LEARNED_BYTES: a record of 16 bytes ("LRND", u32 counter, u32 bytes of the blob, CRC-32
 * of these), then the blob. The record is written last, so that a copy counts when it is whole; of two, the one with the
 * higher counter. A blob of 0 bytes says that nothing learned counts. The blob names its program by its hash: weights of
 * another program are passed over, and are there again when that program is rolled back to.
 */
#include <string.h>

#include "bytes.h"
#include "crc32.h"
#include "device.h"
#include "sha256.h"

enum { RECORD = 16, BLOB_ROOM = EDGE_LEARNED_BYTES - RECORD };

static const char MAGIC[] = "LRND";

static edge_refusal storage_failed(edge_error *why) {
  return edge_refuse(why, EDGE_STORAGE_FAILED, "storage cannot be written");
}

static uint32_t copy_at(uint32_t copy) { return EDGE_LEARNED_AT + copy * EDGE_LEARNED_BYTES; }

static bool read_record(uint32_t copy, uint32_t *counter, uint32_t *bytes) {
  const uint8_t *record = board_storage() + copy_at(copy);
  *counter = edge_get32(record + 4);
  *bytes = edge_get32(record + 8);
  return memcmp(record, MAGIC, 4) == 0 && edge_crc32(0, record, RECORD - 4) == edge_get32(record + RECORD - 4) &&
         *bytes <= BLOB_ROOM;
}

/* The copy that counts, or -1. */
static int find_copy(uint32_t *counter, uint32_t *bytes) {
  int found = -1;
  *counter = *bytes = 0;
  for (uint32_t copy = 0; copy < 2; ++copy) {
    uint32_t its_counter, its_bytes;
    if (read_record(copy, &its_counter, &its_bytes) && (found < 0 || its_counter > *counter)) {
      found = (int)copy;
      *counter = its_counter;
      *bytes = its_bytes;
    }
  }
  return found;
}

static uint32_t spare_copy(void) {
  uint32_t counter, bytes;
  return find_copy(&counter, &bytes) == 0 ? 1 : 0;
}

/* Makes the spare copy, whose blob is written, the one that counts. */
static bool commit_copy(uint32_t bytes) {
  uint32_t counter, old;
  const int copy = find_copy(&counter, &old);
  uint8_t record[RECORD];
  memcpy(record, MAGIC, 4);
  edge_put32(record + 4, counter + 1);
  edge_put32(record + 8, bytes);
  edge_put32(record + RECORD - 4, edge_crc32(0, record, RECORD - 4));
  return edge_program(copy_at(copy == 0 ? 1 : 0), record, RECORD);
}

static void hash_program(const edge_running *running, uint8_t hash[EDGE_SHA256_BYTES]) {
  edge_sha256 made;
  edge_sha256_start(&made);
  edge_sha256_add(&made, edge_payload(running->slot), running->manifest.program_bytes);
  edge_sha256_finish(&made, hash);
}

/* From the core's words to ours. */
static edge_refusal core_refusal(edge_status status) {
  return status == EDGE_BAD_ARGUMENT ? EDGE_OUT_OF_RANGE : EDGE_CANNOT_LEARN;
}

static edge_refusal need_model(const edge_device *device, edge_error *why) {
  return device->running.model != NULL ? EDGE_DONE : edge_refuse(why, EDGE_NO_MODEL, "no model runs on this device");
}

static edge_refusal need_learner(const edge_device *device, edge_error *why) {
  return device->running.learner != NULL ? EDGE_DONE
                                         : edge_refuse(why, EDGE_CANNOT_LEARN, "learning was not started");
}

static void stop_lessons(edge_running *running) {
  running->learner = NULL;
  running->learner_bytes = 0;
  edge_measure_ports(running);
}

edge_refusal edge_measure_lessons(edge_device *device, const edge_learn_plan *plan, edge_learn_budget *need,
                                  edge_error *why) {
  const edge_refusal refusal = need_model(device, why);
  if (refusal != EDGE_DONE) return refusal;
  const edge_status status = edge_learn_measure(device->running.model, plan, need, why);
  return status == EDGE_OK ? EDGE_DONE : core_refusal(status);
}

edge_refusal edge_start_lessons(edge_device *device, const edge_learn_plan *plan, edge_error *why) {
  edge_running *running = &device->running;
  edge_learn_budget need;
  const edge_refusal refusal = edge_measure_lessons(device, plan, &need, why);
  if (refusal != EDGE_DONE) return refusal;
  edge_running bare = *running;
  bare.learner_bytes = 0;
  size_t room;
  uint8_t *block = edge_free_memory(&bare, &room);
  if (need.total_bytes > room) {
    return edge_refuse(why, EDGE_NO_MEMORY, "learning takes %lu bytes behind the model; there are %lu",
                       (unsigned long)need.total_bytes, (unsigned long)room);
  }
  stop_lessons(running);
  edge_learner *learner;
  const edge_status status = edge_learn_prepare(running->model, plan, block, room, &learner, why);
  if (status != EDGE_OK) return core_refusal(status);
  running->learner = learner;
  running->learner_bytes = need.total_bytes;
  edge_measure_ports(running);
  return EDGE_DONE;
}

/* Starts a learner with the blob of a copy in storage. */
static edge_refusal load_copy(edge_device *device, uint32_t copy, size_t bytes, size_t *used, edge_error *why) {
  const uint8_t *blob = board_storage() + copy_at(copy) + RECORD;
  uint8_t hash[EDGE_SHA256_BYTES];
  edge_learn_plan plan;
  edge_refusal refusal = need_model(device, why);
  if (refusal != EDGE_DONE) return refusal;
  hash_program(&device->running, hash);
  edge_status status = edge_learned_plan(blob, bytes, hash, &plan, used, why);
  if (status != EDGE_OK) return core_refusal(status);
  refusal = edge_start_lessons(device, &plan, why);
  if (refusal != EDGE_DONE) return refusal;
  status = edge_learned_load(device->running.learner, blob, bytes, hash, why);
  if (status == EDGE_OK) return EDGE_DONE;
  stop_lessons(&device->running);
  return core_refusal(status);
}

void edge_resume_lessons(edge_device *device) {
  uint32_t counter, bytes;
  const int copy = find_copy(&counter, &bytes);
  edge_error why;
  size_t used;
  if (copy >= 0 && bytes > 0) load_copy(device, (uint32_t)copy, bytes, &used, &why);
}

size_t edge_lesson_bytes(const edge_device *device) {
  size_t count;
  if (device->running.learner == NULL) return 0;
  edge_learn_weights(device->running.learner, &count);
  return EDGE_LEARNED_HEADER_BYTES + count * sizeof(float);
}

size_t edge_read_lessons(edge_device *device, size_t offset, uint8_t *to, size_t count) {
  const size_t all = edge_lesson_bytes(device);
  if (offset >= all) return 0;
  if (count > all - offset) count = all - offset;
  size_t done = 0;
  if (offset < EDGE_LEARNED_HEADER_BYTES) {
    uint8_t hash[EDGE_SHA256_BYTES], header[EDGE_LEARNED_HEADER_BYTES];
    hash_program(&device->running, hash);
    edge_learned_header(device->running.learner, hash, header);
    done = sizeof header - offset < count ? sizeof header - offset : count;
    memcpy(to, header + offset, done);
  }
  size_t values;
  const uint8_t *weights = (const uint8_t *)edge_learn_weights(device->running.learner, &values);
  memcpy(to + done, weights + offset + done - EDGE_LEARNED_HEADER_BYTES, count - done);
  return count;
}

edge_refusal edge_write_lessons(edge_device *device, uint32_t offset, const uint8_t *bytes, size_t count,
                                edge_error *why) {
  const edge_refusal refusal = need_model(device, why);
  if (refusal != EDGE_DONE) return refusal;
  if (offset != 0 && offset != device->weights_next) {
    return edge_refuse(why, EDGE_WRONG_OFFSET, "the piece is for byte %lu, the next is %lu", (unsigned long)offset,
                       (unsigned long)device->weights_next);
  }
  if (count == 0 || offset > BLOB_ROOM || count > BLOB_ROOM - offset) {
    return edge_refuse(why, EDGE_TOO_LARGE, "storage keeps %lu bytes of learned weights", (unsigned long)BLOB_ROOM);
  }
  if (offset % EDGE_STORAGE_PROGRAM_BYTES != 0) { /* what came before was the last piece */
    return edge_refuse(why, EDGE_WRONG_OFFSET, "pieces come in units of %u bytes", EDGE_STORAGE_PROGRAM_BYTES);
  }
  const uint32_t copy = spare_copy();
  if (offset == 0 && !edge_erase(copy_at(copy), EDGE_LEARNED_BYTES)) return storage_failed(why);
  device->weights_next = 0;
  if (!edge_program(copy_at(copy) + RECORD + offset, bytes, count)) return storage_failed(why);
  device->weights_next = offset + (uint32_t)count;
  return EDGE_DONE;
}

edge_refusal edge_take_lessons(edge_device *device, edge_error *why) {
  const uint32_t bytes = device->weights_next;
  size_t used;
  device->weights_next = 0;
  if (bytes == 0) return edge_refuse(why, EDGE_NO_TRANSFER, "no weights were set");
  const edge_refusal refusal = load_copy(device, spare_copy(), bytes, &used, why);
  if (refusal != EDGE_DONE) return refusal;
  return commit_copy((uint32_t)used) ? EDGE_DONE : storage_failed(why);
}

edge_refusal edge_keep_lessons(edge_device *device, edge_error *why) {
  const edge_refusal refusal = need_learner(device, why);
  if (refusal != EDGE_DONE) return refusal;
  const size_t all = edge_lesson_bytes(device);
  if (all > BLOB_ROOM) {
    return edge_refuse(why, EDGE_TOO_LARGE, "the weights take %lu bytes; storage keeps %lu", (unsigned long)all,
                       (unsigned long)BLOB_ROOM);
  }
  const uint32_t at = copy_at(spare_copy());
  device->weights_next = 0;
  if (!edge_erase(at, EDGE_LEARNED_BYTES)) return storage_failed(why);
  for (size_t done = 0; done < all;) {
    uint8_t piece[EDGE_LEARNED_HEADER_BYTES]; /* a multiple of every unit, and the header at once */
    const size_t count = edge_read_lessons(device, done, piece, sizeof piece);
    if (!edge_program(at + RECORD + (uint32_t)done, piece, count)) return storage_failed(why);
    done += count;
  }
  return commit_copy((uint32_t)all) ? EDGE_DONE : storage_failed(why);
}

edge_refusal edge_forget_lessons(edge_device *device, edge_error *why) {
  uint32_t counter, bytes;
  const int copy = find_copy(&counter, &bytes);
  device->weights_next = 0;
  if (device->running.learner != NULL) stop_lessons(&device->running);
  if (copy < 0 || bytes == 0) return EDGE_DONE;
  if (!edge_erase(copy_at(spare_copy()), EDGE_STORAGE_ERASE_BYTES)) return storage_failed(why);
  return commit_copy(0) ? EDGE_DONE : storage_failed(why);
}
