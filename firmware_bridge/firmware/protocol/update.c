/* Writing a slot, and deciding that it shall run. Power may fail between any two operations on storage, and within.
 *
 * A slot is erased as far as the image will reach, then its manifest is written, then the payload in order. So a whole
 * manifest says that all behind it was erased or written since, and what is there of the payload ends at the last byte
 * that is not 0xFF. There the last unit may be half written, so a transfer that goes on after a power cut begins again
 * at that sector: it and the next are erased once more.
 */
#include <string.h>

#include "bytes.h"
#include "device.h"

enum { SECTOR = EDGE_STORAGE_ERASE_BYTES };

static edge_refusal storage_failed(edge_error *why) {
  return edge_refuse(why, EDGE_STORAGE_FAILED, "storage cannot be written");
}

/* The slot that may be written over: neither the one that runs nor the one that would. EDGE_NO_SLOT: both are. */
static uint8_t spare_slot(const edge_device *device) {
  const uint8_t running = device->running.slot, active = device->commit.active;
  if (running == EDGE_NO_SLOT) return active == EDGE_NO_SLOT ? 0 : 1 - active;
  return active == running || device->fallback ? 1 - running : EDGE_NO_SLOT;
}

static edge_refusal cancel_trial(edge_device *device, edge_error *why) {
  if (device->commit.trial == EDGE_NO_SLOT) return EDGE_DONE;
  edge_commit next = device->commit;
  next.trial = EDGE_NO_SLOT;
  next.trial_boots = 0;
  next.trial_sequence = 0;
  if (!edge_write_commit(&next)) return storage_failed(why);
  device->commit = next;
  return EDGE_DONE;
}

/* Bytes of the image that are surely in the slot after a power cut; the sectors behind them are erased. 0: storage
 * failed. */
static uint32_t resume_slot(uint32_t at, const uint8_t *manifest, uint32_t total) {
  const uint8_t *slot = board_storage() + at;
  uint32_t last = total;
  while (last > EDGE_MANIFEST_BYTES && slot[last - 1] == 0xFF) --last;
  const uint32_t sector = (last - 1) / SECTOR * SECTOR;
  const uint32_t sectors_end = (total + SECTOR - 1) / SECTOR * SECTOR;
  const uint32_t count = sectors_end - sector < 2 * SECTOR ? sectors_end - sector : 2 * SECTOR;
  /* The latter first: cut in between, the end is still found in one of the two. */
  if (count > SECTOR && !edge_erase(at + sector + SECTOR, SECTOR)) return 0;
  if (!edge_erase(at + sector, SECTOR)) return 0;
  if (sector > 0) return sector;
  return edge_program(at, manifest, EDGE_MANIFEST_BYTES) ? EDGE_MANIFEST_BYTES : 0;
}

edge_refusal edge_begin(edge_device *device, const uint8_t bytes[EDGE_MANIFEST_BYTES], edge_error *why) {
  edge_manifest manifest;
  edge_refusal refusal = edge_check_manifest(&device->identity, bytes, &manifest, why);
  if (refusal == EDGE_DONE) refusal = edge_check_age(&device->commit, &manifest, why);
  if (refusal != EDGE_DONE) return refusal;

  edge_transfer *transfer = &device->transfer;
  const uint8_t slot = spare_slot(device);
  if (slot == EDGE_NO_SLOT) {
    return edge_refuse(why, EDGE_SLOT_IN_USE, "a roll back waits for a reset: one slot runs and the other will");
  }
  const uint32_t at = edge_slot_at(slot), total = EDGE_MANIFEST_BYTES + manifest.payload_bytes;
  const bool there = memcmp(board_storage() + at, bytes, EDGE_MANIFEST_BYTES) == 0;
  if (there && transfer->open && transfer->slot == slot) return EDGE_DONE; /* goes on where it was */
  transfer->open = false;
  /* What is on trial is not written over while a start may try it. */
  refusal = cancel_trial(device, why);
  if (refusal != EDGE_DONE) return refusal;
  uint32_t next = EDGE_MANIFEST_BYTES;
  if (there) {
    refusal = edge_check_payload(slot, &manifest, why);
    if (refusal == EDGE_DONE) {
      next = total; /* it was all there */
    } else if (refusal != EDGE_WRONG_HASH) {
      return refusal; /* all there, and of no use */
    } else if ((next = resume_slot(at, bytes, total)) == 0) {
      return storage_failed(why);
    }
  } else if (!edge_erase(at, total) || !edge_program(at, bytes, EDGE_MANIFEST_BYTES)) {
    return storage_failed(why);
  }
  *transfer = (edge_transfer){.open = true, .slot = slot, .next = next, .total = total};
  return EDGE_DONE;
}

edge_refusal edge_write_chunk(edge_device *device, uint32_t offset, const uint8_t *bytes, size_t count,
                              edge_error *why) {
  edge_transfer *transfer = &device->transfer;
  if (!transfer->open) return edge_refuse(why, EDGE_NO_TRANSFER, "no transfer was begun");
  if (offset != transfer->next) {
    return edge_refuse(why, EDGE_WRONG_OFFSET, "the chunk is for byte %lu, the next is %lu", (unsigned long)offset,
                       (unsigned long)transfer->next);
  }
  const uint32_t left = transfer->total - transfer->next;
  const bool whole_units = count % EDGE_STORAGE_PROGRAM_BYTES == 0;
  if (count == 0 || count > left || (!whole_units && count != left)) {
    return edge_refuse(why, EDGE_WRONG_LENGTH, "a chunk of %lu bytes; %lu are left, in units of %u",
                       (unsigned long)count, (unsigned long)left, EDGE_STORAGE_PROGRAM_BYTES);
  }
  if (!edge_program(edge_slot_at(transfer->slot) + offset, bytes, count)) {
    transfer->open = false; /* what is there is found out by the next begin */
    return storage_failed(why);
  }
  transfer->next += (uint32_t)count;
  ++device->stats.chunks;
  return EDGE_DONE;
}

edge_refusal edge_end(edge_device *device, edge_error *why) {
  edge_transfer *transfer = &device->transfer;
  if (!transfer->open) return edge_refuse(why, EDGE_NO_TRANSFER, "no transfer was begun");
  if (transfer->next != transfer->total) {
    return edge_refuse(why, EDGE_NOT_COMPLETE, "%lu of %lu bytes have come", (unsigned long)transfer->next,
                       (unsigned long)transfer->total);
  }
  transfer->open = false;
  edge_manifest manifest;
  const edge_refusal refusal = edge_check_slot(&device->identity, transfer->slot, &manifest, why);
  /* Damaged on its way into storage: with its manifest gone, the next begin starts anew. */
  if (refusal == EDGE_WRONG_HASH) edge_erase(edge_slot_at(transfer->slot), 1);
  return refusal;
}

edge_refusal edge_activate(edge_device *device, uint32_t slot, uint32_t sequence, edge_error *why) {
  edge_manifest manifest;
  if (slot > 1) return edge_refuse(why, EDGE_OUT_OF_RANGE, "there is no slot %lu", (unsigned long)slot);
  edge_refusal refusal = edge_check_slot(&device->identity, slot, &manifest, why);
  if (refusal == EDGE_DONE) refusal = edge_check_age(&device->commit, &manifest, why);
  if (refusal != EDGE_DONE) return refusal;
  if (manifest.sequence != sequence) {
    return edge_refuse(why, EDGE_STALE, "the slot holds sequence %lu, not %lu", (unsigned long)manifest.sequence,
                       (unsigned long)sequence);
  }
  edge_commit next = device->commit;
  if (slot == next.active) {
    /* It was damaged, and is the only one that could be written over: what runs takes its place in the record. By its
     * age the image cannot be the active one. */
    if (!device->fallback) return edge_refuse(why, EDGE_SLOT_IN_USE, "slot %lu is active", (unsigned long)slot);
    next.active = device->running.slot;
    next.active_sequence = next.previous_sequence;
    next.previous_sequence = 0;
  }
  next.trial = (uint8_t)slot;
  next.trial_boots = 0;
  next.trial_result = 0;
  next.trial_sequence = sequence;
  if (!edge_write_commit(&next)) return storage_failed(why);
  device->commit = next;
  device->transfer.open = false;
  return EDGE_DONE;
}

edge_refusal edge_roll_back(edge_device *device, uint32_t sequence, edge_error *why) {
  edge_commit next = device->commit;
  const bool on_trial = next.trial != EDGE_NO_SLOT;
  if (sequence != (on_trial ? next.trial_sequence : next.active_sequence)) {
    return edge_refuse(why, EDGE_STALE, "sequence %lu is not what would run", (unsigned long)sequence);
  }
  if (on_trial) return cancel_trial(device, why);
  if (next.active == EDGE_NO_SLOT || next.previous_sequence == 0) {
    return edge_refuse(why, EDGE_NO_IMAGE, "there is no model to go back to");
  }
  const uint8_t other = 1 - next.active;
  edge_manifest manifest;
  const edge_refusal refusal = edge_check_slot(&device->identity, other, &manifest, why);
  if (refusal != EDGE_DONE) return refusal;
  if (manifest.sequence != next.previous_sequence) {
    return edge_refuse(why, EDGE_NO_IMAGE, "the model to go back to was written over");
  }
  next.previous_sequence = next.active_sequence;
  next.active_sequence = manifest.sequence;
  next.active = other;
  if (!edge_write_commit(&next)) return storage_failed(why);
  device->commit = next;
  device->transfer.open = false;
  return EDGE_DONE;
}
