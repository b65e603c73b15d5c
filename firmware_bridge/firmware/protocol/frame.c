#include "frame.h"

#include "bytes.h"
#include "crc32.h"

void edge_clear_receiver(edge_receiver *receiver) {
  receiver->count = 0;
  receiver->run = 0;
  receiver->zero = false;
  receiver->spoilt = false;
}

static void keep(edge_receiver *receiver, uint8_t byte) {
  if (receiver->count < EDGE_FRAME_BYTES) {
    receiver->bytes[receiver->count++] = byte;
  } else {
    receiver->spoilt = true;
  }
}

static edge_received end_frame(const edge_receiver *receiver) {
  /* Zeros between frames are no frames: each side may send some to end whatever the other has heard. */
  if (receiver->count == 0 && receiver->run == 0 && !receiver->spoilt) return EDGE_FRAME_NONE;
  if (receiver->spoilt || receiver->run != 0 || receiver->count < EDGE_FRAME_HEADER + EDGE_FRAME_CRC) {
    return EDGE_FRAME_BAD;
  }
  const uint32_t checked = receiver->count - EDGE_FRAME_CRC;
  const bool right = edge_crc32(0, receiver->bytes, checked) == edge_get32(receiver->bytes + checked);
  return right ? EDGE_FRAME_WHOLE : EDGE_FRAME_BAD;
}

edge_received edge_receive(edge_receiver *receiver, uint8_t byte) {
  if (byte == 0) {
    const edge_received got = end_frame(receiver);
    if (got == EDGE_FRAME_NONE) edge_clear_receiver(receiver);
    return got;
  }
  if (receiver->run == 0) { /* a code byte: how far it is to the next zero */
    if (receiver->zero) keep(receiver, 0);
    receiver->run = (uint8_t)(byte - 1);
    receiver->zero = byte != 255;
  } else {
    keep(receiver, byte);
    --receiver->run;
  }
  return EDGE_FRAME_NONE;
}

void edge_send_frame(uint8_t *frame, size_t count) {
  edge_put32(frame + count, edge_crc32(0, frame, count));
  count += EDGE_FRAME_CRC;
  const uint8_t zero = 0;
  board_write(&zero, 1);
  for (size_t start = 0;;) {
    size_t run = 0;
    while (start + run < count && run < 254 && frame[start + run] != 0) ++run;
    const uint8_t code = (uint8_t)(run + 1);
    board_write(&code, 1);
    board_write(frame + start, run);
    start += run;
    if (start == count) break;
    if (run < 254) ++start; /* the zero that the next code stands for; it may be the last byte */
  }
  board_write(&zero, 1);
}
