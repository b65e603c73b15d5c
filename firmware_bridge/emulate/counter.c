/* unicorn's hook of every block of instructions, in C: counting them in Python takes a thousand times as long.
 *
 * It is compiled for this machine by the same zig as the firmware (hook.py) and knows unicorn by three of its
 * functions, whose addresses it is given.
 */
#include <stdint.h>

typedef int (*stop_fn)(void *engine);

typedef struct counter {
  uint64_t instructions; /* so far */
  uint64_t limit;        /* at which the emulation is stopped; UINT64_MAX for none */
  uint64_t watchdog;     /* likewise, moved on by every feeding */
  uint32_t reason;       /* why it was stopped: 1 limit, 2 watchdog */
  uint32_t riscv;
  uint64_t code_origin; /* of the memory whose bytes are at `code` */
  uint64_t code_bytes;
  const uint8_t *code;
  uint64_t ram_origin; /* likewise: code may run from there */
  uint64_t ram_bytes;
  const uint8_t *ram;
  stop_fn stop;
} counter;

/* Instructions in `size` bytes: the first half word tells whether an instruction has a second one. */
static uint64_t count(const uint8_t *bytes, uint32_t size, uint32_t riscv) {
  uint64_t total = 0;
  for (uint32_t at = 0; at < size; ++total) {
    const int wide = riscv ? (bytes[at] & 3) == 3 : bytes[at + 1] >> 3 >= 0x1D;
    at += wide ? 4 : 2;
  }
  return total;
}

__attribute__((visibility("default"))) void edge_count_block(void *engine, uint64_t address, uint32_t size, void *user) {
  counter *c = user;
  if (c->reason != 0) { /* stopping takes effect behind a block */
    c->stop(engine);
    return;
  }
  if (address >= c->code_origin && address - c->code_origin + size <= c->code_bytes) {
    c->instructions += count(c->code + (address - c->code_origin), size, c->riscv);
  } else if (address >= c->ram_origin && address - c->ram_origin + size <= c->ram_bytes) {
    c->instructions += count(c->ram + (address - c->ram_origin), size, c->riscv);
  }
  if (c->instructions >= c->limit) c->reason = 1;
  else if (c->instructions >= c->watchdog) c->reason = 2;
  if (c->reason != 0) c->stop(engine);
}
