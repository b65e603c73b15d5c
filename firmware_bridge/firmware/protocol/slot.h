/* What a model slot holds: a signed manifest, the program behind it, and a description that only the host reads.
 *
 *   0                       manifest, EDGE_MANIFEST_BYTES
 *   EDGE_MANIFEST_BYTES     payload: the .pte, zeros up to a multiple of 16, the description
 *
 * All integers are little-endian. The signature (EdDSA over BLAKE2b, Monocypher's crypto_eddsa_sign) covers every byte
 * of the manifest before it, and through `sha256` every byte of the payload. docs/protocol.md has the same table, and
 * firmware_bridge/slot_image.py writes it.
 */
#ifndef EDGE_SLOT_H
#define EDGE_SLOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
  EDGE_MANIFEST_BYTES = 320,
  EDGE_SIGNED_BYTES = 256, /* of them, before the signature */
  EDGE_SIGNATURE_BYTES = 64,
  EDGE_PUBLIC_KEY_BYTES = 32,
  EDGE_KEY_ID_BYTES = 8,
  EDGE_SLOT_FORMAT = 1,
  /* What the program may ask of the core that runs it: grows when an older core would misread a newer program. */
  EDGE_PROGRAM_ABI = 1,
  EDGE_SELF_TEST_VALUES = 16,
  EDGE_TARGET_LENGTH = 16,
  EDGE_NAME_LENGTH = 32,
  EDGE_VERSION_LENGTH = 16
};

#define EDGE_SLOT_MAGIC "EDGESLOT"

/* Offsets in the manifest. */
enum {
  EDGE_AT_MAGIC = 0,              /* 8: "EDGESLOT" */
  EDGE_AT_FORMAT = 8,             /* u16 */
  EDGE_AT_ABI = 10,               /* u16 */
  EDGE_AT_PROGRAM_BYTES = 12,     /* u32, of the .pte */
  EDGE_AT_DESCRIPTION_BYTES = 16, /* u32, of the description; 0: none */
  EDGE_AT_STATE_BYTES = 20,       /* u32, as the maker measured: */
  EDGE_AT_ARENA_BYTES = 24,       /* u32, the device refuses a program that plans more */
  EDGE_AT_SCRATCH_BYTES = 28,     /* u32 */
  EDGE_AT_SEQUENCE = 32,          /* u32, 1 ..: a device never goes to a lower one */
  EDGE_AT_RESERVED = 36,          /* u32, 0 */
  EDGE_AT_EXPIRY = 40,            /* u64, Unix seconds; 0: never. Checked where the board has a clock */
  EDGE_AT_SHA256 = 48,            /* 32: of the payload */
  EDGE_AT_TARGET = 80,            /* 16: "cortex-m4", padded with NULs; empty: any */
  EDGE_AT_BOARD = 96,             /* 16: "mps2-an386"; empty: any */
  EDGE_AT_NAME = 112,             /* 32 */
  EDGE_AT_VERSION = 144,          /* 16 */
  EDGE_AT_TEST_SEED = 160,        /* u32: of the inputs that the self-test makes */
  EDGE_AT_TEST_COUNT = 164,       /* u32, 0 .. 16: values expected; 0: it only has to run */
  EDGE_AT_TEST_TOLERANCE = 168,   /* f32: of each value, absolute */
  EDGE_AT_RESERVED_2 = 172,       /* u32, 0 */
  EDGE_AT_TEST_VALUES = 176,      /* 16 × f32: the first values of the first output */
  EDGE_AT_KEY_ID = 240,           /* 8: the first bytes of BLAKE2b(public key) */
  EDGE_AT_RESERVED_3 = 248,       /* 8 zeros */
  EDGE_AT_SIGNATURE = 256         /* 64 */
};

/* A manifest's fields, read. */
typedef struct edge_manifest {
  const uint8_t *bytes; /* EDGE_MANIFEST_BYTES */
  uint16_t format;
  uint16_t abi;
  uint32_t program_bytes;
  uint32_t description_bytes;
  uint32_t arena_bytes;
  uint32_t sequence;
  uint64_t expiry;
  uint32_t payload_bytes; /* program, padding, description */
  size_t block_bytes;     /* what the program takes of this device's memory; known once the payload was checked */
} edge_manifest;

#endif
