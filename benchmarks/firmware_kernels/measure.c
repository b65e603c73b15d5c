/* Instructions of one operator on a board: runs the case that case.h holds, whole (float32 in, float32 out: quantization,
 * product, epilogue), and sends what it took and what came out.
 *
 *   "case " and a line feed; then 4 bytes of board_ticks() that an empty measurement takes, 4 that the operator takes,
 *   4 of its result's size, and the result.
 */
#include <string.h>

#include "board.h"
#include "case.h"
#include "op.h"

static edge_error error;
static edge_value values[CASE_VALUES];
static edge_value *pointers[CASE_VALUES];

static void send(const void *bytes, size_t count) { board_write(bytes, count); }
static void send_word(uint32_t word) { send(&word, sizeof word); }

static void stop(const char *text) {
  send("fail ", 5);
  send(text, strlen(text));
  send("\n", 1);
  for (;;) board_idle();
}

int main(void) {
  board_start();
  edge_call call = {.args = pointers, .arg_count = CASE_VALUES, .kernels = edge_kernels_at(0), .error = &error};
  call.op = &CASE_OP;
  for (size_t i = 0; i < CASE_VALUES; ++i) pointers[i] = &values[i];
  case_fill(values);
  size_t room;
  uint8_t *memory = board_memory(&room);
  const size_t result = case_output(values)->bytes;
  if (call.op->check(&call) != EDGE_OK) stop(error.text);
  if (call.packed_bytes != 0) stop("the weights are not read in place");
  if (call.scratch_bytes + result > room) stop("too little memory");
  call.scratch = memory;
  edge_tensor *out = case_output(values);
  out->data = memory + (call.scratch_bytes + 15) / 16 * 16;
  const uint32_t start = board_ticks();
  const uint32_t empty = board_ticks() - start;
  const uint32_t before = board_ticks();
  const edge_status status = call.op->run(&call);
  const uint32_t after = board_ticks();
  if (status != EDGE_OK) stop(error.text);
  send("case \n", 6);
  send_word(empty);
  send_word(after - before);
  send_word((uint32_t)result);
  send(out->data, result);
  for (;;) board_idle();
}
