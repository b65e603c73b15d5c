/* Frames on the serial line: COBS between zero bytes, a header of 8 bytes, a body, a CRC-32. docs/protocol.md.
 *
 *   0  u8   protocol version
 *   1  u8   command; in an answer with its highest bit set
 *   2  u16  0; in an answer: status (messages.h)
 *   4  u32  sequence number, chosen by the host
 *   8       body
 *   n  u32  CRC-32 of all before
 */
#ifndef EDGE_FRAME_H
#define EDGE_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "board.h"

/* Bytes of model, input or weights that one frame carries: 512 to 1024. Two frames are kept in memory. */
#ifndef EDGE_CHUNK_BYTES
#if defined(EDGE_RAM_BYTES) && EDGE_RAM_BYTES <= 0x4000
#define EDGE_CHUNK_BYTES 512
#else
#define EDGE_CHUNK_BYTES 1024
#endif
#endif

enum {
  EDGE_PROTOCOL_VERSION = 1,
  EDGE_FRAME_HEADER = 8,
  EDGE_FRAME_CRC = 4,
  /* The largest frame before COBS: a chunk with what authenticates it and says where it goes. */
  EDGE_FRAME_BYTES = EDGE_CHUNK_BYTES + 64,
  EDGE_FRAME_BODY = EDGE_FRAME_BYTES - EDGE_FRAME_HEADER - EDGE_FRAME_CRC
};

/* What has come in of a frame, decoded as it comes. */
typedef struct edge_receiver {
  uint32_t count; /* bytes decoded */
  uint8_t run;    /* bytes that follow before the next code byte */
  bool zero;      /* a zero is due before the next run */
  bool spoilt;    /* too long, or no COBS: nothing counts before the next zero byte */
  uint8_t bytes[EDGE_FRAME_BYTES];
} edge_receiver;

typedef enum edge_received {
  EDGE_FRAME_NONE,  /* nothing whole yet */
  EDGE_FRAME_WHOLE, /* `count` bytes, CRC included and right */
  EDGE_FRAME_BAD,   /* damaged on its way */
} edge_received;

/* Takes the next byte of the line. After a frame, whole or bad, the receiver must be cleared before the next byte. */
edge_received edge_receive(edge_receiver *receiver, uint8_t byte);
void edge_clear_receiver(edge_receiver *receiver);

/* Puts the CRC behind `count` bytes of `frame` and sends it with a zero byte before and behind. */
void edge_send_frame(uint8_t *frame, size_t count);

#endif
