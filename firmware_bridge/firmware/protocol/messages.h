/* Commands and statuses, with the numbers that they have on the line: docs/protocol.md, firmware_bridge/messages.py. */
#ifndef EDGE_MESSAGES_H
#define EDGE_MESSAGES_H

typedef enum edge_command {
  EDGE_INFO = 0x01,
  EDGE_PORT = 0x02,
  EDGE_CHALLENGE = 0x03,
  EDGE_DESCRIPTION = 0x04,
  EDGE_TROUBLE = 0x05,
  EDGE_STATS = 0x06,
  EDGE_VERIFY = 0x07,
  EDGE_INPUT = 0x10,
  EDGE_RUN = 0x11,
  EDGE_OUTPUT = 0x12,
  EDGE_PROFILE = 0x13,
  EDGE_GET_WEIGHTS = 0x14,
  EDGE_LEARN_BUDGET = 0x15,
  /* From here on they change state and are authenticated. */
  EDGE_BEGIN = 0x40,
  EDGE_CHUNK = 0x41,
  EDGE_END = 0x42,
  EDGE_ACTIVATE = 0x43,
  EDGE_ROLL_BACK = 0x44,
  EDGE_RESET = 0x45,
  EDGE_START_LEARNING = 0x46,
  EDGE_LEARN = 0x47,
  EDGE_SET_WEIGHTS = 0x48,
  EDGE_TAKE_WEIGHTS = 0x49,
  EDGE_KEEP_WEIGHTS = 0x4A,
  EDGE_FORGET_WEIGHTS = 0x4B,
  EDGE_FIRST_AUTHENTICATED = 0x40,
  EDGE_ANSWER = 0x80
} edge_command;

typedef enum edge_refusal {
  EDGE_DONE = 0,
  /* The frame. */
  EDGE_WRONG_VERSION = 1,
  EDGE_UNKNOWN_COMMAND = 2,
  EDGE_WRONG_LENGTH = 3,
  EDGE_OUT_OF_RANGE = 4,
  EDGE_SEQUENCE_REUSED = 5,
  /* Who sent it. */
  EDGE_NO_IDENTITY = 8,
  EDGE_NOT_CHALLENGED = 9,
  EDGE_REPLAYED = 10,
  EDGE_NOT_AUTHENTIC = 11,
  /* Storage. */
  EDGE_NO_TRANSFER = 16,
  EDGE_WRONG_OFFSET = 17,
  EDGE_STORAGE_FAILED = 18,
  EDGE_NOT_COMPLETE = 19,
  EDGE_SLOT_IN_USE = 20,
  /* Images. */
  EDGE_NO_IMAGE = 32,
  EDGE_WRONG_FORMAT = 33,
  EDGE_WRONG_ABI = 34,
  EDGE_UNKNOWN_KEY = 35,
  EDGE_BROKEN_SIGNATURE = 36,
  EDGE_STALE = 37,
  EDGE_WRONG_BOARD = 38,
  EDGE_EXPIRED = 39,
  EDGE_TOO_LARGE = 40,
  EDGE_WRONG_HASH = 41,
  EDGE_BAD_PROGRAM = 42,
  EDGE_NO_MEMORY = 43,
  EDGE_SELF_TEST = 44,
  EDGE_TRIAL_STOPPED = 45,
  EDGE_TRIAL_PASSED = 46, /* no refusal: how the last trial ended */
  /* Running. */
  EDGE_NO_MODEL = 64,
  EDGE_NO_INPUT = 65,
  EDGE_RUN_FAILED = 66,
  EDGE_CANNOT_LEARN = 67,
  EDGE_NO_PROFILE = 68
} edge_refusal;

#endif
