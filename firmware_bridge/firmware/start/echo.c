/* Instead of the protocol: sends back what comes in, and answers a few letters behind an escape character, so that a
 * board, its emulator and its toolchain can be tested without anything else.
 *
 *   ESC t   board_ticks(), 4 bytes         ESC e   erases the storage's first sector: 1 or 0
 *   ESC r   board_random(), 4 bytes        ESC p   then 8 bytes: programs them at offset 0: 1 or 0
 *   ESC s   the storage's first 16 bytes   ESC R   board_reset()
 *   ESC m   board_memory(): 4 bytes address, 4 bytes length
 *   ESC f   a fault                        ESC ESC the escape character
 */
#include <string.h>

#include "board.h"

static int read_byte(void) {
  int byte;
  while ((byte = board_read()) < 0) board_idle();
  return byte;
}

static void write_word(uint32_t word) {
  uint8_t bytes[4] = {(uint8_t)word, (uint8_t)(word >> 8), (uint8_t)(word >> 16), (uint8_t)(word >> 24)};
  board_write(bytes, sizeof bytes);
}

static void answer(int letter) {
  uint8_t bytes[16];
  size_t room;
  switch (letter) {
    case 't': write_word(board_ticks()); return;
    case 'r': write_word(board_random()); return;
    case 's': board_write(board_storage(), 16); return;
    case 'm':
      write_word((uint32_t)(uintptr_t)board_memory(&room));
      write_word((uint32_t)room);
      return;
    case 'e': bytes[0] = board_storage_erase(0); break;
    case 'p':
      for (int i = 0; i < 8; ++i) bytes[8 + i] = (uint8_t)read_byte();
      bytes[0] = board_storage_program(0, bytes + 8, 8);
      break;
    case 'R': board_reset();
    case 'f':
      __builtin_trap();
    default: bytes[0] = (uint8_t)letter;
  }
  board_write(bytes, 1);
}

int main(void) {
  board_start();
  board_write((const uint8_t *)"edge\n", 5);
  for (;;) {
    board_watchdog_feed();
    const int byte = read_byte();
    if (byte == 0x1B) {
      answer(read_byte());
      continue;
    }
    const uint8_t echo = (uint8_t)byte;
    board_write(&echo, 1);
  }
}
