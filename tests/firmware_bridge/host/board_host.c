/* The firmware as a process: serial line on standard input and output, storage in a file.
 *
 *   board_host STORAGE [CUT [SEED]]
 *
 * CUT: power fails in the middle of the so-many-th operation on storage (0: never), which leaves garbage of SEED there;
 * the process then ends with 3. Programming a unit that is not erased ends it with 4: firmware must not do that.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "board.h"
#include "protocol/serve.h"

enum { CUT = 3, RULE_BROKEN = 4, NO_STORAGE = 5 };
#ifndef HOST_MEMORY
#define HOST_MEMORY (192 << 10)
#endif

static char **arguments;
static uint8_t *storage;
static unsigned long operations, cut_at;
static uint32_t garbage;
static uint8_t in[4096], out[4096];
static size_t in_count, in_at, out_count;
static _Alignas(64) uint8_t memory[HOST_MEMORY];

static void flush_output(void) {
  for (size_t at = 0; at < out_count;) {
    const ssize_t wrote = write(STDOUT_FILENO, out + at, out_count - at);
    if (wrote < 0) {
      if (errno == EINTR) continue;
      exit(0);
    }
    at += (size_t)wrote;
  }
  out_count = 0;
}

static uint8_t draw(void) {
  garbage ^= garbage << 13;
  garbage ^= garbage >> 17;
  garbage ^= garbage << 5;
  return (uint8_t)(garbage >> 8);
}

/* In the middle of changing `count` bytes to `wanted` (NULL: erased). Each byte is as before, as wanted, or neither. */
static void maybe_cut(uint8_t *at, const uint8_t *wanted, size_t count) {
  if (++operations != cut_at) return;
  const uint8_t kind = draw() & 3;
  for (size_t i = 0; i < count; ++i) {
    const uint8_t pick = kind < 3 ? kind : draw() % 3;
    if (pick == 1) at[i] = wanted == NULL ? 0xFF : wanted[i];
    if (pick == 2) at[i] = draw();
  }
  _exit(CUT);
}

static void break_rule(const char *what, uint32_t offset) {
  fprintf(stderr, "storage: %s at %#lx\n", what, (unsigned long)offset);
  _exit(RULE_BROKEN);
}

void board_start(void) {
  fcntl(STDIN_FILENO, F_SETFL, fcntl(STDIN_FILENO, F_GETFL) | O_NONBLOCK);
  memset(memory, 0xA5, sizeof memory); /* RAM holds anything */
}

int board_read(void) {
  if (in_at < in_count) return in[in_at++];
  flush_output();
  const ssize_t got = read(STDIN_FILENO, in, sizeof in);
  if (got == 0) exit(0);
  if (got < 0) return -1;
  in_count = (size_t)got;
  in_at = 1;
  return in[0];
}

void board_write(const uint8_t *bytes, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    if (out_count == sizeof out) flush_output();
    out[out_count++] = bytes[i];
  }
}

void board_idle(void) {
  struct pollfd wait = {STDIN_FILENO, POLLIN, 0};
  poll(&wait, 1, -1);
}

uint32_t board_ticks(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint32_t)((uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec);
}

#ifdef EDGE_BOARD_CLOCK
uint64_t board_unix_time(void) { return (uint64_t)time(NULL); }
#endif

const uint8_t *board_storage(void) { return storage; }

bool board_storage_erase(uint32_t offset) {
  if (offset % EDGE_STORAGE_ERASE_BYTES != 0 || offset >= EDGE_STORAGE_BYTES) break_rule("no sector", offset);
  maybe_cut(storage + offset, NULL, EDGE_STORAGE_ERASE_BYTES);
  memset(storage + offset, 0xFF, EDGE_STORAGE_ERASE_BYTES);
  return true;
}

bool board_storage_program(uint32_t offset, const uint8_t *from, size_t bytes) {
  const uint32_t unit = EDGE_STORAGE_PROGRAM_BYTES;
  if (offset % unit != 0 || bytes % unit != 0 || offset + bytes > EDGE_STORAGE_BYTES) break_rule("no unit", offset);
  for (size_t at = 0; at < bytes; at += unit) {
    for (size_t i = 0; i < unit; ++i) {
      if (storage[offset + at + i] != 0xFF) break_rule("not erased", offset);
    }
    maybe_cut(storage + offset + at, from + at, unit);
    memcpy(storage + offset + at, from + at, unit);
  }
  return true;
}

uint32_t board_random(void) {
  uint32_t value;
  FILE *source = fopen("/dev/urandom", "rb");
  if (source == NULL || fread(&value, sizeof value, 1, source) != 1) abort();
  fclose(source);
  return value;
}

uint8_t *board_memory(size_t *bytes) {
  *bytes = sizeof memory;
  return memory;
}

_Noreturn void board_reset(void) {
  char left[32];
  flush_output();
  snprintf(left, sizeof left, "%lu", cut_at > operations ? cut_at - operations : 0);
  if (arguments[2] != NULL) arguments[2] = left;
  execv("/proc/self/exe", arguments);
  _exit(NO_STORAGE);
}

void board_watchdog_feed(void) {}

int main(int count, char **words) {
  arguments = words;
  cut_at = count > 2 ? strtoul(words[2], NULL, 10) : 0;
  garbage = (count > 3 ? (uint32_t)strtoul(words[3], NULL, 10) : 0) * 2654435761u + 12345;
  const int file = count > 1 ? open(words[1], O_RDWR | O_CLOEXEC) : -1;
  if (file < 0) return NO_STORAGE;
  storage = mmap(NULL, EDGE_STORAGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (storage == MAP_FAILED) return NO_STORAGE;
  board_start();
  edge_firmware_serve();
}
