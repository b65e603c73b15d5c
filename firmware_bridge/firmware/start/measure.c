/* Instead of the protocol: measures the program at the beginning of storage, runs it once on zeros, and sends what that
 * took. `edge firmware build` runs it in an emulator, so that the figures it prints are those of the very CPU and core.
 *
 *   storage   0: u32 bytes of the program, 16: the program
 *   sent      "EDGEMEAS", then as u32 each: status, total, state, arena, scratch, packed bytes, 0, instructions;
 *             where status is 0 and RAM was enough, ticks of each instruction; else, or where it failed, the sentence
 */
#include <string.h>

#include "board.h"
#include "edge_core.h"
#include "op.h"

enum { MOST_CALLS = 512 };

static edge_error error;
static uint32_t ticks[MOST_CALLS], before;

static void note(void *user, size_t instruction, const edge_call *call) {
  (void)user, (void)call;
  const uint32_t now = board_ticks();
  if (instruction < MOST_CALLS) ticks[instruction] = now - before;
  board_watchdog_feed();
  before = board_ticks();
}

static void send(const void *bytes, size_t count) { board_write(bytes, count); }

static void measure(void) {
  edge_requirements need;
  edge_model *model = NULL;
  uint32_t size, calls = 0;
  memset(&need, 0, sizeof need);
  memcpy(&size, board_storage(), 4);
  edge_status status = edge_measure(board_storage() + 16, size, NULL, &need, &error);
  size_t room;
  uint8_t *memory = board_memory(&room);
  if (status == EDGE_OK && need.total_bytes <= room) {
    status = edge_prepare(board_storage() + 16, size, NULL, memory, need.total_bytes, &model, &error);
    if (status == EDGE_OK) {
      for (size_t i = 0; i < edge_input_count(model); ++i) {
        memset(edge_input(model, i)->data, 0, edge_input(model, i)->bytes);
      }
      before = board_ticks();
      status = edge_run(model, note, NULL, &error);
      calls = (uint32_t)edge_instruction_count(model);
    }
  }
  const uint32_t words[8] = {(uint32_t)status,           (uint32_t)need.total_bytes,   (uint32_t)need.state_bytes,
                             (uint32_t)need.arena_bytes, (uint32_t)need.scratch_bytes, (uint32_t)need.packed_bytes,
                             0,                          calls};
  send("EDGEMEAS", 8);
  send(words, sizeof words);
  if (status == EDGE_OK) send(ticks, 4 * (calls < MOST_CALLS ? calls : MOST_CALLS));
  else send(error.text, strlen(error.text) + 1);
}

int main(void) {
  board_start();
  measure();
  for (;;) board_idle();
}
