/* What the firmware does: start the board, answer frames. */
#include "board.h"
#include "protocol/serve.h"

int main(void) {
  board_start();
  edge_firmware_serve();
}
