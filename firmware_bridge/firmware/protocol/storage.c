#include "storage.h"

#include <string.h>

#include "bytes.h"
#include "crc32.h"

_Static_assert(EDGE_STORAGE_ERASE_BYTES >= EDGE_MANIFEST_BYTES && EDGE_STORAGE_ERASE_BYTES >= 2 * EDGE_COMMIT_BYTES,
               "sectors hold a manifest, an identity or some commit records");
_Static_assert(EDGE_STORAGE_PROGRAM_BYTES <= 16 && EDGE_COMMIT_BYTES % EDGE_STORAGE_PROGRAM_BYTES == 0 &&
                   EDGE_STORAGE_ERASE_BYTES % EDGE_STORAGE_PROGRAM_BYTES == 0,
               "units divide records and sectors");
_Static_assert(EDGE_STORAGE_BYTES > EDGE_SLOTS_AT + 2 * EDGE_STORAGE_ERASE_BYTES, "storage has room for two slots");

enum { RECORDS = EDGE_STORAGE_ERASE_BYTES / EDGE_COMMIT_BYTES };

static const char IDENTITY_MAGIC[] = "EDGEIDEN";
static const char COMMIT_MAGIC[] = "CMIT";

static bool is_erased(const uint8_t *bytes, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    if (bytes[i] != 0xFF) return false;
  }
  return true;
}

bool edge_program(uint32_t offset, const uint8_t *from, size_t count) {
  uint8_t unit[EDGE_STORAGE_PROGRAM_BYTES];
  const uint8_t *there = board_storage() + offset;
  for (size_t done = 0; done < count; done += sizeof unit) {
    const size_t here = count - done < sizeof unit ? count - done : sizeof unit;
    memset(unit, 0xFF, sizeof unit);
    memcpy(unit, from + done, here);
    if (is_erased(unit, sizeof unit)) continue;
    if (!board_storage_program(offset + (uint32_t)done, unit, sizeof unit)) return false;
  }
  return memcmp(there, from, count) == 0;
}

bool edge_erase(uint32_t offset, size_t count) {
  for (size_t done = 0; done < count; done += EDGE_STORAGE_ERASE_BYTES) {
    board_watchdog_feed();
    if (!board_storage_erase(offset + (uint32_t)done)) return false;
    if (!is_erased(board_storage() + offset + done, EDGE_STORAGE_ERASE_BYTES)) return false;
  }
  return true;
}

bool edge_read_identity(edge_identity *identity) {
  const uint8_t *bytes = board_storage() + EDGE_IDENTITY_AT;
  memset(identity, 0, sizeof *identity);
  if (memcmp(bytes, IDENTITY_MAGIC, 8) != 0 || edge_get16(bytes + 8) != 1) return false;
  if (edge_crc32(0, bytes, EDGE_IDENTITY_BYTES - 4) != edge_get32(bytes + EDGE_IDENTITY_BYTES - 4)) return false;
  if (edge_get16(bytes + 10) > EDGE_MAX_KEYS) return false;
  identity->key_count = edge_get16(bytes + 10);
  identity->id = bytes + 16;
  identity->secret = bytes + 32;
  identity->keys = bytes + 64;
  return true;
}

static const uint8_t *record_at(uint32_t sector, uint32_t index) {
  return board_storage() + EDGE_LOG_AT + sector * EDGE_STORAGE_ERASE_BYTES + index * EDGE_COMMIT_BYTES;
}

static bool is_slot(uint8_t slot) { return slot <= 1 || slot == EDGE_NO_SLOT; }

static bool read_record(const uint8_t *bytes, edge_commit *commit) {
  if (memcmp(bytes, COMMIT_MAGIC, 4) != 0) return false;
  if (edge_crc32(0, bytes, EDGE_COMMIT_BYTES - 4) != edge_get32(bytes + EDGE_COMMIT_BYTES - 4)) return false;
  commit->counter = edge_get32(bytes + 4);
  commit->active = bytes[8];
  commit->trial = bytes[9];
  commit->trial_boots = bytes[10];
  commit->trial_result = bytes[11];
  commit->floor = edge_get32(bytes + 12);
  commit->active_sequence = edge_get32(bytes + 16);
  commit->previous_sequence = edge_get32(bytes + 20);
  commit->trial_sequence = edge_get32(bytes + 24);
  return is_slot(commit->active) && is_slot(commit->trial);
}

/* The record that counts, and the sector that it is in; -1: there is none. */
static int find_commit(edge_commit *commit) {
  int found = -1;
  memset(commit, 0, sizeof *commit);
  commit->active = commit->trial = EDGE_NO_SLOT;
  for (uint32_t sector = 0; sector < 2; ++sector) {
    for (uint32_t i = 0; i < RECORDS; ++i) {
      edge_commit record;
      if (read_record(record_at(sector, i), &record) && (found < 0 || record.counter > commit->counter)) {
        *commit = record;
        found = (int)sector;
      }
    }
  }
  return found;
}

void edge_read_commit(edge_commit *commit) { find_commit(commit); }

static bool append(uint32_t sector, const uint8_t record[EDGE_COMMIT_BYTES]) {
  /* Behind the last record that holds anything: what a power cut tore is passed over, and a unit is programmed once. */
  uint32_t next = RECORDS;
  while (next > 0 && is_erased(record_at(sector, next - 1), EDGE_COMMIT_BYTES)) --next;
  for (; next < RECORDS; ++next) {
    if (edge_program((uint32_t)(record_at(sector, next) - board_storage()), record, EDGE_COMMIT_BYTES)) return true;
  }
  return false;
}

bool edge_write_commit(edge_commit *commit) {
  edge_commit last;
  const int sector = find_commit(&last);
  uint8_t record[EDGE_COMMIT_BYTES];
  memset(record, 0, sizeof record);
  memcpy(record, COMMIT_MAGIC, 4);
  commit->counter = last.counter + 1;
  edge_put32(record + 4, commit->counter);
  record[8] = commit->active;
  record[9] = commit->trial;
  record[10] = commit->trial_boots;
  record[11] = commit->trial_result;
  edge_put32(record + 12, commit->floor);
  edge_put32(record + 16, commit->active_sequence);
  edge_put32(record + 20, commit->previous_sequence);
  edge_put32(record + 24, commit->trial_sequence);
  edge_put32(record + EDGE_COMMIT_BYTES - 4, edge_crc32(0, record, EDGE_COMMIT_BYTES - 4));
  if (sector >= 0 && append((uint32_t)sector, record)) return true;
  const uint32_t other = sector == 0 ? 1 : 0;
  return edge_erase(EDGE_LOG_AT + other * EDGE_STORAGE_ERASE_BYTES, EDGE_STORAGE_ERASE_BYTES) && append(other, record);
}
