/* The firmware's frames by hand, line by line of standard input:
 *   d HEX   bytes of the line: prints "whole HEX" (header and body) or "bad" for each frame that ends in them
 *   e HEX   header and body: prints the bytes of the line
 *   c HEX   prints the CRC-32
 */
#include <stdio.h>
#include <string.h>

#include "board.h"
#include "protocol/crc32.h"
#include "protocol/frame.h"

static uint8_t bytes[1 << 16];

static void print_hex(const uint8_t *from, size_t count) {
  for (size_t i = 0; i < count; ++i) printf("%02x", from[i]);
}

void board_write(const uint8_t *from, size_t count) { print_hex(from, count); }

static void decode(edge_receiver *receiver, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    const edge_received got = edge_receive(receiver, bytes[i]);
    if (got == EDGE_FRAME_NONE) continue;
    printf(got == EDGE_FRAME_WHOLE ? " whole " : " bad");
    if (got == EDGE_FRAME_WHOLE) print_hex(receiver->bytes, receiver->count - EDGE_FRAME_CRC);
    edge_clear_receiver(receiver);
  }
}

int main(void) {
  static char line[1 << 17];
  static edge_receiver receiver;
  while (fgets(line, sizeof line, stdin) != NULL) {
    size_t count = 0;
    unsigned value;
    for (const char *at = line + 2; sscanf(at, "%2x", &value) == 1; at += 2) bytes[count++] = (uint8_t)value;
    if (line[0] == 'd') decode(&receiver, count);
    if (line[0] == 'e') edge_send_frame(bytes, count);
    if (line[0] == 'c') printf("%08x", (unsigned)edge_crc32(0, bytes, count));
    printf("\n");
  }
  return 0;
}
