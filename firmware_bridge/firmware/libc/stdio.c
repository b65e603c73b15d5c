/* Formatting for messages: no locale, no allocation, no buffer but the caller's. */
#include "stdio.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* Text that has been written, or would have been. */
typedef struct sink {
  char *text;
  size_t room;
  size_t length;
} sink;

static void put(sink *to, char letter) {
  if (to->length + 1 < to->room) to->text[to->length] = letter;
  ++to->length;
}

static void put_padded(sink *to, const char *text, size_t length, size_t width, char padding) {
  for (size_t i = length; i < width; ++i) put(to, padding);
  for (size_t i = 0; i < length; ++i) put(to, text[i]);
}

/* Digits of `value` before `end`, which is returned moved. */
static char *digits(char *end, uint64_t value, unsigned base) {
  while (value > UINT32_MAX) {
    *--end = "0123456789abcdef"[value % base];
    value /= base;
  }
  uint32_t small = (uint32_t)value;
  do {
    *--end = "0123456789abcdef"[small % base];
    small /= base;
  } while (small != 0);
  return end;
}

int vsnprintf(char *text, size_t room, const char *format, va_list arguments) {
  sink to = {text, room, 0};
  for (; *format != '\0'; ++format) {
    if (*format != '%') {
      put(&to, *format);
      continue;
    }
    char padding = ' ';
    size_t width = 0, precision = SIZE_MAX;
    ++format;
    if (*format == '0') padding = *format++;
    while (*format >= '0' && *format <= '9') width = width * 10 + (size_t)(*format++ - '0');
    if (*format == '.') {
      ++format;
      precision = 0;
      if (*format == '*') {
        const int given = va_arg(arguments, int);
        precision = given < 0 ? SIZE_MAX : (size_t)given;
        ++format;
      }
      while (*format >= '0' && *format <= '9') precision = precision * 10 + (size_t)(*format++ - '0');
    }
    int length = 0; /* of `long`s */
    while (*format == 'h') ++format;
    while (*format == 'l') ++length, ++format;
    if (*format == 'z') length = 1, ++format;
    char buffer[24], *end = buffer + sizeof buffer, *start = end;
    switch (*format) {
      case 'd':
      case 'i': {
        const int64_t value = length > 1    ? va_arg(arguments, long long)
                              : length == 1 ? va_arg(arguments, long)
                                            : va_arg(arguments, int);
        start = digits(end, value < 0 ? 0 - (uint64_t)value : (uint64_t)value, 10);
        if (value < 0) *--start = '-';
        put_padded(&to, start, (size_t)(end - start), width, padding);
        break;
      }
      case 'u':
      case 'x': {
        const uint64_t value = length > 1    ? va_arg(arguments, unsigned long long)
                               : length == 1 ? va_arg(arguments, unsigned long)
                                             : va_arg(arguments, unsigned);
        start = digits(end, value, *format == 'x' ? 16 : 10);
        put_padded(&to, start, (size_t)(end - start), width, padding);
        break;
      }
      case 'c': put(&to, (char)va_arg(arguments, int)); break;
      case 's': {
        const char *string = va_arg(arguments, const char *);
        size_t count = 0;
        while (count < precision && string[count] != '\0') ++count;
        put_padded(&to, string, count, width, ' ');
        break;
      }
      case '%': put(&to, '%'); break;
      case '\0': --format; break;
      default: put(&to, *format); break;
    }
  }
  if (room > 0) text[to.length < room ? to.length : room - 1] = '\0';
  return (int)to.length;
}

int snprintf(char *text, size_t room, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  const int length = vsnprintf(text, room, format, arguments);
  va_end(arguments);
  return length;
}
