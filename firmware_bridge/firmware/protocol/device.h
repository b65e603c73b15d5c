/* What the firmware knows while it runs, and the steps between storage and a running model. One device, no heap. */
#ifndef EDGE_DEVICE_H
#define EDGE_DEVICE_H

#include "edge_core.h"
#include "error.h"
#include "frame.h"
#include "learn/learn.h"
#include "messages.h"
#include "slot.h"
#include "storage.h"

/* How often a model may be started before it is confirmed: a power cut during its first start must not cost an update,
 * and a model that trips the watchdog must not be tried forever. */
enum { EDGE_TRIAL_BOOTS = 3 };

enum { EDGE_NONCE_BYTES = 16, EDGE_MAC_BYTES = 16, EDGE_AUTH_BYTES = 4 + EDGE_MAC_BYTES };

/* Fills `why` and gives `refusal`. */
#define edge_refuse(why, refusal, ...) (edge_set_error((why), EDGE_BAD_ARGUMENT, __VA_ARGS__), (refusal))

typedef struct edge_running {
  edge_model *model; /* NULL: none runs */
  uint8_t slot;
  edge_manifest manifest;
  edge_learner *learner;  /* behind the model's block; NULL: the program runs as it is */
  size_t learner_bytes;
  size_t input_bytes, output_bytes; /* of all ports together; with a learner, its outputs are the outputs */
  size_t input_filled;              /* bytes of the next run's inputs that have come; a run takes them all */
  bool has_output;
  uint32_t profiled; /* instructions whose ticks lie behind the model's block */
  uint32_t ticks;    /* of the last run */
} edge_running;

typedef struct edge_transfer {
  bool open;
  uint8_t slot;
  uint32_t next;  /* bytes of the image that are in the slot */
  uint32_t total; /* of the image */
} edge_transfer;

typedef struct edge_stats {
  uint32_t frames, damaged, repeated, refused, runs, chunks, lessons;
} edge_stats;

typedef struct edge_device {
  edge_identity identity;
  bool has_identity;
  edge_commit commit;
  edge_running running;
  edge_transfer transfer;
  uint32_t weights_next; /* bytes of learned weights that were set, in the spare copy of storage */
  edge_stats stats;
  bool fallback;   /* the active slot is damaged: what runs is the one before it */
  uint8_t trouble; /* edge_refusal: why no model runs, or why not the one that was tried */
  edge_error trouble_text;
  /* The challenge that authenticated commands answer. */
  bool challenged;
  uint32_t counter;
  uint8_t nonce[EDGE_NONCE_BYTES];
} edge_device;

/* --- slot.c ------------------------------------------------------------------------------------------------------ */

/* Whether a manifest is ours, signed, and for this device; `why` says what is not. Fills `manifest`, which points into
 * `bytes`. Says nothing about its age. */
edge_refusal edge_check_manifest(const edge_identity *identity, const uint8_t *bytes, edge_manifest *manifest,
                                 edge_error *why);
/* Whether the payload in the slot is the signed one, and a program that this device can hold. */
edge_refusal edge_check_payload(uint32_t slot, edge_manifest *manifest, edge_error *why);
/* Both, of what is in a slot. */
edge_refusal edge_check_slot(const edge_identity *identity, uint32_t slot, edge_manifest *manifest, edge_error *why);
/* Whether the image is newer than any that was confirmed, and, where the board has a clock, has not expired. A model that
 * runs already goes on when it expires. */
edge_refusal edge_check_age(const edge_commit *commit, const edge_manifest *manifest, edge_error *why);

static inline const uint8_t *edge_payload(uint32_t slot) {
  return board_storage() + edge_slot_at(slot) + EDGE_MANIFEST_BYTES;
}

/* The board's memory for models, from a multiple of EDGE_PACK_ALIGN on. */
uint8_t *edge_model_memory(size_t *bytes);

/* --- running.c --------------------------------------------------------------------------------------------------- */

/* Starts a checked slot's program. */
edge_refusal edge_start_model(edge_running *running, uint32_t slot, const edge_manifest *manifest, edge_error *why);
/* Runs it on the inputs that the manifest's seed gives; it is as freshly started afterwards. */
edge_refusal edge_self_test(edge_running *running, edge_error *why);
/* Sums the ports' bytes up anew, after a learner came or went. */
void edge_measure_ports(edge_running *running);
/* Where byte `at` of all inputs (or outputs) one after the other lies, and how many follow it in the same tensor. */
uint8_t *edge_port_bytes(const edge_running *running, bool output, size_t at, size_t *count);
edge_refusal edge_run_model(edge_running *running, bool profile, edge_error *why);
/* Ticks of instruction `index` in the last profiled run. */
uint32_t edge_profiled_ticks(const edge_running *running, uint32_t index);
/* Memory behind the model's block and the learner's, at a multiple of 16. */
uint8_t *edge_free_memory(const edge_running *running, size_t *bytes);

/* --- boot.c ------------------------------------------------------------------------------------------------------ */

/* Decides what runs, and starts it. */
void edge_boot(edge_device *device);

/* --- update.c ---------------------------------------------------------------------------------------------------- */

edge_refusal edge_begin(edge_device *device, const uint8_t manifest[EDGE_MANIFEST_BYTES], edge_error *why);
edge_refusal edge_write_chunk(edge_device *device, uint32_t offset, const uint8_t *bytes, size_t count,
                              edge_error *why);
edge_refusal edge_end(edge_device *device, edge_error *why);
edge_refusal edge_activate(edge_device *device, uint32_t slot, uint32_t sequence, edge_error *why);
/* From the model of this sequence, on trial or active, to the one before it; another one is not touched: the command
 * may come a second time after a start. */
edge_refusal edge_roll_back(edge_device *device, uint32_t sequence, edge_error *why);

/* --- lessons.c --------------------------------------------------------------------------------------------------- */

/* Learning, from weights that are the program's or were learned. Blob: learn/learn.h, "learned weights as bytes". */
edge_refusal edge_measure_lessons(edge_device *device, const edge_learn_plan *plan, edge_learn_budget *need,
                                  edge_error *why);
edge_refusal edge_start_lessons(edge_device *device, const edge_learn_plan *plan, edge_error *why);
/* Takes up what storage has of weights for the program that runs. */
void edge_resume_lessons(edge_device *device);
/* Bytes of the blob; 0 without a learner. */
size_t edge_lesson_bytes(const edge_device *device);
size_t edge_read_lessons(edge_device *device, size_t offset, uint8_t *to, size_t count);
/* Writes a piece of a blob to the spare copy in storage; the pieces come in order. */
edge_refusal edge_write_lessons(edge_device *device, uint32_t offset, const uint8_t *bytes, size_t count,
                                edge_error *why);
/* Runs on with the weights that were written so, from now on and after each start. */
edge_refusal edge_take_lessons(edge_device *device, edge_error *why);
/* Keeps the learner's weights as they are over starts. */
edge_refusal edge_keep_lessons(edge_device *device, edge_error *why);
/* Runs on with the program's own weights, from now on and after each start. */
edge_refusal edge_forget_lessons(edge_device *device, edge_error *why);

/* --- commands.c -------------------------------------------------------------------------------------------------- */

/* Does what a request asks for and writes the answer's body. Returns the refusal, or EDGE_DONE. */
edge_refusal edge_obey(edge_device *device, uint8_t command, const uint8_t *body, size_t count, uint8_t *answer,
                       size_t *answer_bytes, edge_error *why);

#endif
