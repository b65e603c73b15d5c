/* What lies where in a board's storage, and the log that says which slot counts.
 *
 *   sector 0             identity: who the device is, its secret, whose signatures it takes. Written when the device is
 *                        made, never by the firmware
 *   sectors 1, 2         log of commit records
 *   2 × EDGE_LEARNED_BYTES   learned weights, two copies of which the newer whole one counts
 *   2 × EDGE_SLOT_BYTES      slots A and B
 *
 * A commit record is the only thing that decides what runs. Records are appended; the valid one with the highest counter
 * counts. A record that a power cut tore fails its CRC, and the one before it counts still; a full sector is left as it
 * is until the first record in the other one, freshly erased, is whole. firmware_bridge/storage.py is the same in Python.
 */
#ifndef EDGE_STORAGE_H
#define EDGE_STORAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "board.h"
#include "slot.h"

/* Of one copy: a sixteenth of the storage unless the board says otherwise, in whole sectors. */
#ifndef EDGE_STORAGE_LEARNED_BYTES
#define EDGE_STORAGE_LEARNED_BYTES (EDGE_STORAGE_BYTES / 16)
#endif
#define EDGE_LEARNED_BYTES                                                                       \
  ((EDGE_STORAGE_LEARNED_BYTES + EDGE_STORAGE_ERASE_BYTES - 1) / EDGE_STORAGE_ERASE_BYTES *      \
   EDGE_STORAGE_ERASE_BYTES)

#define EDGE_IDENTITY_AT 0u
#define EDGE_LOG_AT (1u * EDGE_STORAGE_ERASE_BYTES)
#define EDGE_LEARNED_AT (3u * EDGE_STORAGE_ERASE_BYTES)
#define EDGE_SLOTS_AT (EDGE_LEARNED_AT + 2u * EDGE_LEARNED_BYTES)
#define EDGE_SLOT_BYTES \
  ((EDGE_STORAGE_BYTES - EDGE_SLOTS_AT) / (2u * EDGE_STORAGE_ERASE_BYTES) * EDGE_STORAGE_ERASE_BYTES)

enum { EDGE_NO_SLOT = 0xFF };

/* --- identity ---------------------------------------------------------------------------------------------------- */

/* 0 "EDGEIDEN", 8 u16 format 1, 10 u16 keys, 12 u32 0, 16 id, 32 secret, 64 4 public keys, 192 12 zeros, 204 CRC-32. */
enum {
  EDGE_IDENTITY_BYTES = 208,
  EDGE_DEVICE_ID_BYTES = 16,
  EDGE_SECRET_BYTES = 32,
  EDGE_MAX_KEYS = 4
};

typedef struct edge_identity {
  const uint8_t *id;
  const uint8_t *secret;
  const uint8_t *keys; /* EDGE_PUBLIC_KEY_BYTES each */
  uint32_t key_count;
} edge_identity;

/* Whether there is one. */
bool edge_read_identity(edge_identity *identity);

/* --- the log ----------------------------------------------------------------------------------------------------- */

enum { EDGE_COMMIT_BYTES = 48 };

/* 0 "CMIT", 4 u32 counter, 8 u8 active, 9 u8 trial, 10 u8 trial boots, 11 u8 how the last trial ended, 12 u32 floor,
 * 16 u32 active's, 20 u32 previous', 24 u32 trial's sequence, 28 16 zeros, 44 CRC-32. */
typedef struct edge_commit {
  uint32_t counter;
  uint8_t active; /* slot of the model that was confirmed last, or EDGE_NO_SLOT */
  uint8_t trial;  /* slot of the model to be tried at the next start, or EDGE_NO_SLOT */
  uint8_t trial_boots;
  uint8_t trial_result;       /* edge_refusal; EDGE_TRIAL_PASSED, or 0 before the first */
  uint32_t floor;             /* the highest sequence that was ever confirmed: lower ones and itself are stale */
  uint32_t active_sequence;   /* of the image that `active` must hold */
  uint32_t previous_sequence; /* of the image that the other slot had when it was active; 0: none */
  uint32_t trial_sequence;
} edge_commit;

/* The record that counts; of a device without any, one that names no slot. */
void edge_read_commit(edge_commit *commit);
/* Appends `commit` with the next counter, atomically; false where storage fails, and then the record before counts. */
bool edge_write_commit(edge_commit *commit);

/* --- slots ------------------------------------------------------------------------------------------------------- */

static inline uint32_t edge_slot_at(uint32_t slot) { return EDGE_SLOTS_AT + slot * EDGE_SLOT_BYTES; }

/* Programs `count` bytes at `offset`, a multiple of the unit, the last unit filled with 0xFF, and reads them back.
 * Units that are all 0xFF are left as they were erased. */
bool edge_program(uint32_t offset, const uint8_t *from, size_t count);
/* Erases the sectors of [offset, offset + count). */
bool edge_erase(uint32_t offset, size_t count);

#endif
