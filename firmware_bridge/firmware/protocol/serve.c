/* The loop: a byte, a frame, an answer. */
#include "serve.h"

#include <string.h>

#include "bytes.h"
#include "crc32.h"
#include "device.h"
#include "monocypher.h"

static edge_device device;
static edge_receiver receiver;

/* The last answer: a request that is repeated, because its answer was lost, gets it again. */
static struct {
  bool valid;
  uint32_t sequence;
  uint32_t request_crc;
  size_t count;
  _Alignas(8) uint8_t bytes[EDGE_FRAME_BYTES];
} answer;

static void challenge(uint8_t *nonce) {
  /* Hashed with the secret: whoever knows how a board draws its numbers does not know the next. */
  uint8_t drawn[24], hash[64];
  for (size_t i = 0; i < 4; ++i) edge_put32(drawn + 4 * i, board_random());
  edge_put32(drawn + 16, board_ticks());
  edge_put32(drawn + 20, device.commit.counter);
  crypto_blake2b_keyed(hash, sizeof hash, device.identity.secret, EDGE_SECRET_BYTES, drawn, sizeof drawn);
  memcpy(device.nonce, hash, EDGE_NONCE_BYTES);
  memcpy(nonce, hash, EDGE_NONCE_BYTES);
  device.challenged = true;
  device.counter = 0;
}

static edge_refusal no_identity(edge_error *why) {
  return edge_refuse(why, EDGE_NO_IDENTITY, "this device was given no identity: it takes no command that changes it");
}

/* Whether the owner sent this: a MAC over the nonce, the header, the counter and what follows. */
static edge_refusal authenticate(const uint8_t *frame, size_t count, edge_error *why) {
  const uint8_t *counter = frame + EDGE_FRAME_HEADER, *mac = counter + 4;
  if (!device.has_identity) return no_identity(why);
  if (count < EDGE_FRAME_HEADER + EDGE_AUTH_BYTES) {
    return edge_refuse(why, EDGE_NOT_AUTHENTIC, "the command must be authenticated");
  }
  if (!device.challenged) return edge_refuse(why, EDGE_NOT_CHALLENGED, "ask for a challenge first");
  uint8_t hash[64];
  crypto_blake2b_ctx state;
  crypto_blake2b_keyed_init(&state, sizeof hash, device.identity.secret, EDGE_SECRET_BYTES);
  crypto_blake2b_update(&state, device.nonce, sizeof device.nonce);
  crypto_blake2b_update(&state, frame, EDGE_FRAME_HEADER + 4);
  crypto_blake2b_update(&state, mac + EDGE_MAC_BYTES, count - EDGE_FRAME_HEADER - EDGE_AUTH_BYTES);
  crypto_blake2b_final(&state, hash);
  if (crypto_verify16(hash, mac) != 0) {
    return edge_refuse(why, EDGE_NOT_AUTHENTIC, "not authenticated: another secret, or another challenge");
  }
  if (edge_get32(counter) <= device.counter) return edge_refuse(why, EDGE_REPLAYED, "the command came before");
  device.counter = edge_get32(counter);
  return EDGE_DONE;
}

static edge_refusal obey(const uint8_t *frame, size_t count, uint8_t *body, size_t *body_bytes, edge_error *why) {
  const uint8_t command = frame[1];
  if (frame[0] != EDGE_PROTOCOL_VERSION) {
    return edge_refuse(why, EDGE_WRONG_VERSION, "this firmware speaks version %u of the protocol, not %u",
                       EDGE_PROTOCOL_VERSION, frame[0]);
  }
  if (edge_get16(frame + 2) != 0) return edge_refuse(why, EDGE_OUT_OF_RANGE, "bytes 2 and 3 of a request are 0");
  if (command == EDGE_CHALLENGE) {
    if (!device.has_identity) return no_identity(why);
    challenge(body);
    *body_bytes = EDGE_NONCE_BYTES;
    return EDGE_DONE;
  }
  size_t header = EDGE_FRAME_HEADER;
  if (command >= EDGE_FIRST_AUTHENTICATED && command < EDGE_ANSWER) {
    const edge_refusal refusal = authenticate(frame, count, why);
    if (refusal != EDGE_DONE) return refusal;
    header += EDGE_AUTH_BYTES;
  }
  return edge_obey(&device, command, frame + header, count - header, body, body_bytes, why);
}

static void send_answer(void) { edge_send_frame(answer.bytes, answer.count); }

static void fill_answer(const uint8_t *frame, edge_refusal refusal, size_t body_bytes, const edge_error *why) {
  uint8_t *bytes = answer.bytes;
  if (refusal != EDGE_DONE) {
    ++device.stats.refused;
    body_bytes = strlen(why->text);
    memcpy(bytes + EDGE_FRAME_HEADER, why->text, body_bytes);
  }
  bytes[0] = EDGE_PROTOCOL_VERSION;
  bytes[1] = frame[1] | EDGE_ANSWER;
  edge_put16(bytes + 2, (uint16_t)refusal);
  memcpy(bytes + 4, frame + 4, 4);
  answer.count = EDGE_FRAME_HEADER + body_bytes;
}

/* `frame` without its CRC, which is right. */
static void take_frame(const uint8_t *frame, size_t count) {
  const uint32_t sequence = edge_get32(frame + 4), crc = edge_get32(frame + count);
  edge_error why;
  ++device.stats.frames;
  if (answer.valid && sequence == answer.sequence && crc == answer.request_crc) {
    ++device.stats.repeated;
    send_answer();
    return;
  }
  if (frame[1] & EDGE_ANSWER) return; /* our own words, come back on the line */
  size_t body_bytes = 0;
  edge_refusal refusal;
  if (answer.valid && sequence == answer.sequence) {
    refusal = edge_refuse(&why, EDGE_SEQUENCE_REUSED, "sequence number %lu was another command's",
                          (unsigned long)sequence);
  } else {
    refusal = obey(frame, count, answer.bytes + EDGE_FRAME_HEADER, &body_bytes, &why);
  }
  fill_answer(frame, refusal, body_bytes, &why);
  answer.valid = true;
  answer.sequence = sequence;
  answer.request_crc = crc;
  send_answer();
  if (refusal == EDGE_DONE && frame[1] == EDGE_RESET) board_reset();
}

_Noreturn void edge_firmware_serve(void) {
  board_watchdog_feed();
  edge_boot(&device);
  edge_clear_receiver(&receiver);
  for (;;) {
    board_watchdog_feed();
    const int byte = board_read();
    if (byte < 0) {
      board_idle();
      continue;
    }
    const edge_received got = edge_receive(&receiver, (uint8_t)byte);
    if (got == EDGE_FRAME_NONE) continue;
    if (got == EDGE_FRAME_WHOLE) {
      take_frame(receiver.bytes, receiver.count - EDGE_FRAME_CRC);
    } else {
      ++device.stats.damaged;
    }
    edge_clear_receiver(&receiver);
  }
}
