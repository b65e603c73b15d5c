/* What runs after a start: the model on trial, else the confirmed one, else the one before it, else none. */
#include <string.h>

#include "device.h"

static edge_refusal start_slot(edge_device *device, uint32_t slot, uint32_t sequence, edge_error *why) {
  edge_manifest manifest;
  const edge_refusal refusal = edge_check_slot(&device->identity, slot, &manifest, why);
  if (refusal != EDGE_DONE) return refusal;
  if (manifest.sequence != sequence) {
    return edge_refuse(why, EDGE_STALE, "the slot holds sequence %lu, not the %lu that was activated",
                       (unsigned long)manifest.sequence, (unsigned long)sequence);
  }
  return edge_start_model(&device->running, slot, &manifest, why);
}

static edge_refusal try_model(edge_device *device, edge_error *why) {
  const edge_refusal refusal = start_slot(device, device->commit.trial, device->commit.trial_sequence, why);
  return refusal != EDGE_DONE ? refusal : edge_self_test(&device->running, why);
}

static void stop_model(edge_device *device) {
  memset(&device->running, 0, sizeof device->running);
  device->running.slot = EDGE_NO_SLOT;
}

static void note_trouble(edge_device *device, edge_refusal refusal, const edge_error *why) {
  device->trouble = (uint8_t)refusal;
  device->trouble_text = *why;
}

/* Whether the model on trial was confirmed and runs. */
static bool run_trial(edge_device *device) {
  edge_error why;
  edge_commit *commit = &device->commit;
  edge_refusal refusal;
  if (commit->trial_boots >= EDGE_TRIAL_BOOTS) {
    refusal = edge_refuse(&why, EDGE_TRIAL_STOPPED, "the new model did not come through its first run, %u times tried",
                          EDGE_TRIAL_BOOTS);
  } else {
    ++commit->trial_boots;
    /* Counted before it is tried: it may never return. */
    if (!edge_write_commit(commit)) {
      refusal = edge_refuse(&why, EDGE_STORAGE_FAILED, "storage cannot be written");
      note_trouble(device, refusal, &why);
      return false;
    }
    refusal = try_model(device, &why);
  }
  edge_commit next = *commit;
  next.trial = EDGE_NO_SLOT;
  next.trial_boots = 0;
  next.trial_sequence = 0;
  next.trial_result = (uint8_t)(refusal == EDGE_DONE ? EDGE_TRIAL_PASSED : refusal);
  if (refusal == EDGE_DONE) {
    next.previous_sequence = commit->active == EDGE_NO_SLOT ? 0 : commit->active_sequence;
    next.active = commit->trial;
    next.active_sequence = commit->trial_sequence;
    if (next.active_sequence > next.floor) next.floor = next.active_sequence;
    if (!edge_write_commit(&next)) refusal = edge_refuse(&why, EDGE_STORAGE_FAILED, "storage cannot be written");
  } else {
    edge_write_commit(&next); /* if not, it is counted and tried again */
  }
  edge_read_commit(commit);
  if (refusal == EDGE_DONE) return true;
  note_trouble(device, refusal, &why);
  stop_model(device);
  return false;
}

void edge_boot(edge_device *device) {
  edge_error why;
  memset(device, 0, sizeof *device);
  stop_model(device);
  device->has_identity = edge_read_identity(&device->identity);
  edge_read_commit(&device->commit);
  if (!device->has_identity) {
    const edge_refusal refusal = edge_refuse(&why, EDGE_NO_IDENTITY, "this device was given no identity");
    note_trouble(device, refusal, &why);
    return;
  }
  if (device->commit.trial != EDGE_NO_SLOT && run_trial(device)) {
    edge_resume_lessons(device);
    return;
  }
  const edge_commit *commit = &device->commit;
  if (commit->active == EDGE_NO_SLOT) {
    if (device->trouble == 0) note_trouble(device, edge_refuse(&why, EDGE_NO_MODEL, "no model was activated"), &why);
    return;
  }
  const edge_refusal refusal = start_slot(device, commit->active, commit->active_sequence, &why);
  if (refusal == EDGE_DONE) {
    edge_resume_lessons(device);
    return;
  }
  note_trouble(device, refusal, &why);
  /* Damaged in storage. The one before it was confirmed too, and is the only way to go on. */
  const uint32_t other = 1u - commit->active;
  if (commit->previous_sequence == 0 || start_slot(device, other, commit->previous_sequence, &why) != EDGE_DONE) {
    stop_model(device);
    return;
  }
  device->fallback = true;
  edge_resume_lessons(device);
}
