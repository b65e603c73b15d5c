/* What a slot holds is trusted only after this. */
#include "slot.h"

#include <string.h>

#include "bytes.h"
#include "device.h"
#include "monocypher.h"
#include "sha256.h"

enum { HASH_PIECE = 4096 }; /* between two feedings of the watchdog */

static const uint8_t *find_key(const edge_identity *identity, const uint8_t id[EDGE_KEY_ID_BYTES]) {
  for (uint32_t i = 0; i < identity->key_count; ++i) {
    const uint8_t *key = identity->keys + i * EDGE_PUBLIC_KEY_BYTES;
    uint8_t hash[64];
    crypto_blake2b(hash, sizeof hash, key, EDGE_PUBLIC_KEY_BYTES);
    if (memcmp(hash, id, EDGE_KEY_ID_BYTES) == 0) return key;
  }
  return NULL;
}

/* Whether a field padded with NULs is empty or `text`. */
static bool is_for(const uint8_t *field, size_t length, const char *text) {
  return field[0] == 0 || (strlen(text) <= length && strncmp((const char *)field, text, length) == 0);
}

static edge_refusal refuse_class(edge_error *why, const char *what, const uint8_t *field, const char *ours) {
  const size_t length = strnlen((const char *)field, EDGE_TARGET_LENGTH);
  return edge_refuse(why, EDGE_WRONG_BOARD, "the image is for %s %s; this device is %s", what,
                     edge_make_label(field, length).text, ours);
}

edge_refusal edge_check_manifest(const edge_identity *identity, const uint8_t *bytes, edge_manifest *manifest,
                                 edge_error *why) {
  memset(manifest, 0, sizeof *manifest);
  if (memcmp(bytes, EDGE_SLOT_MAGIC, 8) != 0) return edge_refuse(why, EDGE_NO_IMAGE, "there is no slot image");
  manifest->bytes = bytes;
  manifest->format = edge_get16(bytes + EDGE_AT_FORMAT);
  manifest->abi = edge_get16(bytes + EDGE_AT_ABI);
  manifest->program_bytes = edge_get32(bytes + EDGE_AT_PROGRAM_BYTES);
  manifest->description_bytes = edge_get32(bytes + EDGE_AT_DESCRIPTION_BYTES);
  manifest->arena_bytes = edge_get32(bytes + EDGE_AT_ARENA_BYTES);
  manifest->sequence = edge_get32(bytes + EDGE_AT_SEQUENCE);
  manifest->expiry = edge_get64(bytes + EDGE_AT_EXPIRY);
  if (manifest->format != EDGE_SLOT_FORMAT) {
    return edge_refuse(why, EDGE_WRONG_FORMAT, "slot format %u; this firmware reads %u", manifest->format,
                       EDGE_SLOT_FORMAT);
  }
  const uint8_t *key = find_key(identity, bytes + EDGE_AT_KEY_ID);
  if (key == NULL) return edge_refuse(why, EDGE_UNKNOWN_KEY, "signed with a key that this device does not know");
  board_watchdog_feed();
  if (crypto_eddsa_check(bytes + EDGE_AT_SIGNATURE, key, bytes, EDGE_SIGNED_BYTES) != 0) {
    return edge_refuse(why, EDGE_BROKEN_SIGNATURE, "broken signature");
  }
  board_watchdog_feed();
  /* From here on the words are those of who signed. */
  if (manifest->abi != EDGE_PROGRAM_ABI) {
    return edge_refuse(why, EDGE_WRONG_ABI, "program ABI %u; this firmware runs %u", manifest->abi, EDGE_PROGRAM_ABI);
  }
  if (!is_for(bytes + EDGE_AT_BOARD, EDGE_TARGET_LENGTH, EDGE_BOARD_NAME)) {
    return refuse_class(why, "board", bytes + EDGE_AT_BOARD, EDGE_BOARD_NAME);
  }
  if (!is_for(bytes + EDGE_AT_TARGET, EDGE_TARGET_LENGTH, EDGE_BOARD_TARGET)) {
    return refuse_class(why, "target", bytes + EDGE_AT_TARGET, EDGE_BOARD_TARGET);
  }
  const uint32_t room = EDGE_SLOT_BYTES - EDGE_MANIFEST_BYTES;
  const uint32_t program = manifest->program_bytes, description = manifest->description_bytes;
  const uint32_t padded = description == 0 ? program : (program + 15) & ~15u;
  if (program == 0 || program > room || padded > room || description > room - padded) {
    return edge_refuse(why, EDGE_TOO_LARGE, "a program of %lu bytes and a description of %lu; a slot holds %lu",
                       (unsigned long)program, (unsigned long)description, (unsigned long)room);
  }
  manifest->payload_bytes = padded + description;
  return EDGE_DONE;
}

uint8_t *edge_model_memory(size_t *bytes) {
  size_t all;
  uint8_t *memory = board_memory(&all);
  const size_t skipped = (size_t)(-(uintptr_t)memory & (EDGE_PACK_ALIGN - 1));
  *bytes = all > skipped ? all - skipped : 0;
  return memory + skipped;
}

edge_refusal edge_check_payload(uint32_t slot, edge_manifest *manifest, edge_error *why) {
  const uint8_t *payload = edge_payload(slot);
  edge_sha256 hash;
  uint8_t digest[EDGE_SHA256_BYTES];
  edge_sha256_start(&hash);
  for (uint32_t at = 0; at < manifest->payload_bytes;) {
    const uint32_t left = manifest->payload_bytes - at, count = left < HASH_PIECE ? left : HASH_PIECE;
    edge_sha256_add(&hash, payload + at, count);
    at += count;
    board_watchdog_feed();
  }
  edge_sha256_finish(&hash, digest);
  if (memcmp(digest, manifest->bytes + EDGE_AT_SHA256, sizeof digest) != 0) {
    return edge_refuse(why, EDGE_WRONG_HASH, "the program in storage is not the one that was signed");
  }
  edge_requirements need;
  if (edge_measure(payload, manifest->program_bytes, NULL, &need, why) != EDGE_OK) return EDGE_BAD_PROGRAM;
  if (need.arena_bytes > manifest->arena_bytes) {
    return edge_refuse(why, EDGE_BAD_PROGRAM, "plans %lu bytes of memory; its manifest says %lu",
                       (unsigned long)need.arena_bytes, (unsigned long)manifest->arena_bytes);
  }
  size_t memory;
  edge_model_memory(&memory);
  if (need.total_bytes > memory) {
    return edge_refuse(why, EDGE_NO_MEMORY, "needs %lu bytes of memory (tables %lu, arena %lu, scratch %lu); there are %lu",
                       (unsigned long)need.total_bytes, (unsigned long)need.state_bytes, (unsigned long)need.arena_bytes,
                       (unsigned long)need.scratch_bytes, (unsigned long)memory);
  }
  manifest->block_bytes = need.total_bytes;
  return EDGE_DONE;
}

edge_refusal edge_check_slot(const edge_identity *identity, uint32_t slot, edge_manifest *manifest, edge_error *why) {
  const uint8_t *bytes = board_storage() + edge_slot_at(slot);
  const edge_refusal refusal = edge_check_manifest(identity, bytes, manifest, why);
  return refusal != EDGE_DONE ? refusal : edge_check_payload(slot, manifest, why);
}

edge_refusal edge_check_age(const edge_commit *commit, const edge_manifest *manifest, edge_error *why) {
#ifdef EDGE_BOARD_CLOCK
  if (manifest->expiry != 0 && board_unix_time() > manifest->expiry) {
    return edge_refuse(why, EDGE_EXPIRED, "the image has expired");
  }
#endif
  if (manifest->sequence > commit->floor) return EDGE_DONE;
  return edge_refuse(why, EDGE_STALE, "stale: sequence %lu; this device has had %lu, and takes only newer ones",
                     (unsigned long)manifest->sequence, (unsigned long)commit->floor);
}
