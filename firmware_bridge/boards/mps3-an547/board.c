/* Arm's FPGA boards differ in the addresses that their .toml files hold. */
#include "drivers/mps_board.h"
