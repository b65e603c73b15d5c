/* A board of this machine, for tests: storage as a small microcontroller has it. */
#ifndef EDGE_BOARD_CONFIG_H
#define EDGE_BOARD_CONFIG_H
#define EDGE_BOARD_NAME "host"
#define EDGE_BOARD_TARGET "host"
#define EDGE_STORAGE_BYTES 0x30000u
#define EDGE_STORAGE_ERASE_BYTES 1024u
#define EDGE_STORAGE_PROGRAM_BYTES 4u
#define EDGE_STACK_BYTES 65536u
#ifdef EDGE_HOST_CLOCK
#define EDGE_BOARD_CLOCK
#endif
#endif
