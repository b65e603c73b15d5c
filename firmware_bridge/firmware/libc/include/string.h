/* The firmware's own C library, as small as the core needs it: string.c. */
#ifndef EDGE_LIBC_STRING_H
#define EDGE_LIBC_STRING_H

#include <stddef.h>

void *memcpy(void *restrict to, const void *restrict from, size_t count);
void *memmove(void *to, const void *from, size_t count);
void *memset(void *to, int byte, size_t count);
int memcmp(const void *a, const void *b, size_t count);
void *memchr(const void *in, int byte, size_t count);
size_t strlen(const char *text);
size_t strnlen(const char *text, size_t most);
int strcmp(const char *a, const char *b);
char *strchr(const char *text, int letter);
int strncmp(const char *a, const char *b, size_t count);

/* Constant counts become single instructions. */
#define memcpy(to, from, count) __builtin_memcpy(to, from, count)
#define memset(to, byte, count) __builtin_memset(to, byte, count)

#endif
