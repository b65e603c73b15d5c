/* CRC-32 as in zlib, Ethernet, PNG: polynomial 0xEDB88320 reflected, all ones at the beginning and inverted at the end. */
#ifndef EDGE_CRC32_H
#define EDGE_CRC32_H

#include <stddef.h>
#include <stdint.h>

/* Of `count` bytes; `crc` is 0, or the CRC of what came before. */
uint32_t edge_crc32(uint32_t crc, const uint8_t *bytes, size_t count);

#endif
