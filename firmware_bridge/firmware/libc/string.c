/* Compiled with -fno-builtin, so that the loops are not turned into calls of themselves. */
#include <stdint.h>

#include "string.h"
#undef memcpy
#undef memset

static int aligned(const void *a, const void *b) { return (((uintptr_t)a | (uintptr_t)b) & 3) == 0; }

void *memcpy(void *restrict to, const void *restrict from, size_t count) {
  uint8_t *out = to;
  const uint8_t *in = from;
  if (aligned(to, from)) {
    for (; count >= 16; count -= 16, in += 16, out += 16) {
      uint32_t a = ((const uint32_t *)(const void *)in)[0], b = ((const uint32_t *)(const void *)in)[1];
      uint32_t c = ((const uint32_t *)(const void *)in)[2], d = ((const uint32_t *)(const void *)in)[3];
      ((uint32_t *)(void *)out)[0] = a;
      ((uint32_t *)(void *)out)[1] = b;
      ((uint32_t *)(void *)out)[2] = c;
      ((uint32_t *)(void *)out)[3] = d;
    }
    for (; count >= 4; count -= 4, in += 4, out += 4) *(uint32_t *)(void *)out = *(const uint32_t *)(const void *)in;
  }
  for (; count > 0; --count) *out++ = *in++;
  return to;
}

void *memmove(void *to, const void *from, size_t count) {
  uint8_t *out = to;
  const uint8_t *in = from;
  if (out <= in || out >= in + count) {
    for (; count > 0; --count) *out++ = *in++;
  } else {
    while (count > 0) --count, out[count] = in[count];
  }
  return to;
}

void *memset(void *to, int byte, size_t count) {
  uint8_t *out = to;
  if (((uintptr_t)out & 3) == 0) {
    const uint32_t word = (uint8_t)byte * 0x01010101u;
    for (; count >= 4; count -= 4, out += 4) *(uint32_t *)(void *)out = word;
  }
  for (; count > 0; --count) *out++ = (uint8_t)byte;
  return to;
}

int memcmp(const void *a, const void *b, size_t count) {
  const uint8_t *x = a, *y = b;
  for (; count > 0; --count, ++x, ++y) {
    if (*x != *y) return *x - *y;
  }
  return 0;
}

void *memchr(const void *in, int byte, size_t count) {
  const uint8_t *at = in;
  for (; count > 0; --count, ++at) {
    if (*at == (uint8_t)byte) return (void *)(uintptr_t)at;
  }
  return NULL;
}

size_t strlen(const char *text) {
  const char *end = text;
  while (*end != '\0') ++end;
  return (size_t)(end - text);
}

size_t strnlen(const char *text, size_t most) {
  size_t length = 0;
  while (length < most && text[length] != '\0') ++length;
  return length;
}

char *strchr(const char *text, int letter) {
  for (;; ++text) {
    if (*text == (char)letter) return (char *)(uintptr_t)text;
    if (*text == '\0') return NULL;
  }
}

int strcmp(const char *a, const char *b) {
  while (*a != '\0' && *a == *b) ++a, ++b;
  return (uint8_t)*a - (uint8_t)*b;
}

int strncmp(const char *a, const char *b, size_t count) {
  for (; count > 0; --count, ++a, ++b) {
    if (*a != *b || *a == '\0') return (uint8_t)*a - (uint8_t)*b;
  }
  return 0;
}

#if defined(__ARM_EABI__)
/* The names that compilers for ARM may call instead. */
void __aeabi_memcpy(void *to, const void *from, size_t count) { memcpy(to, from, count); }
void __aeabi_memcpy4(void *to, const void *from, size_t count) { memcpy(to, from, count); }
void __aeabi_memcpy8(void *to, const void *from, size_t count) { memcpy(to, from, count); }
void __aeabi_memmove(void *to, const void *from, size_t count) { memmove(to, from, count); }
void __aeabi_memmove4(void *to, const void *from, size_t count) { memmove(to, from, count); }
void __aeabi_memmove8(void *to, const void *from, size_t count) { memmove(to, from, count); }
void __aeabi_memset(void *to, size_t count, int byte) { memset(to, byte, count); }
void __aeabi_memset4(void *to, size_t count, int byte) { memset(to, byte, count); }
void __aeabi_memset8(void *to, size_t count, int byte) { memset(to, byte, count); }
void __aeabi_memclr(void *to, size_t count) { memset(to, 0, count); }
void __aeabi_memclr4(void *to, size_t count) { memset(to, 0, count); }
void __aeabi_memclr8(void *to, size_t count) { memset(to, 0, count); }
#endif
