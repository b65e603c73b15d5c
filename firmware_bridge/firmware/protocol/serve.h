/* The firmware above the board: starts the model that storage holds and answers the serial line. main() calls
 * board_start(), then this. */
#ifndef EDGE_SERVE_H
#define EDGE_SERVE_H

_Noreturn void edge_firmware_serve(void);

#endif
