/* The reader of untrusted FlatBuffers. Multi-byte numbers are little end first and assembled byte by byte, so neither
 * the host's byte order nor the alignment of the bytes in memory matters here. */
#define EDGE_TERSE_DEFINES
#include "flatbuffer.h"

#include "error.h"

static uint32_t load_u16(const fb_reader *reader, uint32_t at) {
  const uint8_t *p = reader->bytes + at;
  return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}

static uint32_t load_u32(const fb_reader *reader, uint32_t at) {
  return load_u16(reader, at) | load_u16(reader, at + 2) << 16;
}

static uint64_t load_u64(const fb_reader *reader, uint32_t at) {
  return (uint64_t)load_u32(reader, at) | (uint64_t)load_u32(reader, at + 4) << 32;
}

static bool malformed(const fb_reader *reader, const char *what, uint32_t at) {
  edge_set_error(reader->error, EDGE_BAD_FILE, "malformed program: %s at byte %lu; the file is damaged, fetch it again",
                 what, (unsigned long)at);
  return false;
}

/* Whether [at, at + bytes) lies inside the buffer. */
static bool inside(const fb_reader *reader, uint64_t at, uint64_t bytes) {
  return at <= reader->size && bytes <= reader->size - at;
}

static bool open_table(const fb_reader *reader, uint64_t at, const char *what, fb_table *table) {
  if (at % 4 != 0 || !inside(reader, at, 4)) return malformed(reader, what, (uint32_t)at);
  int64_t vtable = (int64_t)at - (int32_t)load_u32(reader, (uint32_t)at);
  if (vtable < 0 || vtable % 2 != 0 || !inside(reader, (uint64_t)vtable, 4)) {
    return malformed(reader, what, (uint32_t)at);
  }
  uint32_t vtable_bytes = load_u16(reader, (uint32_t)vtable);
  uint32_t table_bytes = load_u16(reader, (uint32_t)vtable + 2);
  if (vtable_bytes < 4 || vtable_bytes % 2 != 0 || !inside(reader, (uint64_t)vtable, vtable_bytes) || table_bytes < 4 ||
      !inside(reader, at, table_bytes)) {
    return malformed(reader, what, (uint32_t)at);
  }
  table->at = (uint32_t)at;
  table->bytes = table_bytes;
  table->fields_at = (uint32_t)vtable + 4;
  table->field_count = (vtable_bytes - 4) / 2;
  return true;
}

/* Position of a field's inline part of `width` bytes in `position`, or 0 where the field is absent. */
static bool find_field(const fb_reader *reader, const fb_table *table, uint32_t field, uint32_t width, const char *what,
                       uint32_t *position) {
  *position = 0;
  if (field >= table->field_count) return true;
  uint32_t offset = load_u16(reader, table->fields_at + 2 * field);
  if (offset == 0) return true;
  if (offset < 4 || offset > table->bytes || width > table->bytes - offset || (table->at + offset) % width != 0) {
    return malformed(reader, what, table->at);
  }
  *position = table->at + offset;
  return true;
}

/* Where the offset stored at `position` points: never backwards, so never at itself. */
static uint64_t follow(const fb_reader *reader, uint32_t position) {
  return (uint64_t)position + load_u32(reader, position);
}

bool fb_root(const fb_reader *reader, fb_table *table) {
  if (!inside(reader, 0, 4)) return malformed(reader, "root", 0);
  return open_table(reader, follow(reader, 0), "root", table);
}

bool fb_u8(const fb_reader *reader, const fb_table *table, uint32_t field, const char *what, uint8_t *value) {
  uint32_t position;
  if (!find_field(reader, table, field, 1, what, &position)) return false;
  if (position != 0) *value = reader->bytes[position];
  return true;
}

bool fb_u32(const fb_reader *reader, const fb_table *table, uint32_t field, const char *what, uint32_t *value) {
  uint32_t position;
  if (!find_field(reader, table, field, 4, what, &position)) return false;
  if (position != 0) *value = load_u32(reader, position);
  return true;
}

bool fb_u64(const fb_reader *reader, const fb_table *table, uint32_t field, const char *what, uint64_t *value) {
  uint32_t position;
  if (!find_field(reader, table, field, 8, what, &position)) return false;
  if (position != 0) *value = load_u64(reader, position);
  return true;
}

bool fb_child(const fb_reader *reader, const fb_table *table, uint32_t field, const char *what, fb_table *child,
              bool *present) {
  uint32_t position;
  *present = false;
  if (!find_field(reader, table, field, 4, what, &position)) return false;
  if (position == 0) return true;
  *present = true;
  return open_table(reader, follow(reader, position), what, child);
}

bool fb_list(const fb_reader *reader, const fb_table *table, uint32_t field, uint32_t width, const char *what,
             fb_vector *list) {
  uint32_t position;
  list->at = 0;
  list->count = 0;
  if (!find_field(reader, table, field, 4, what, &position)) return false;
  if (position == 0) return true;
  uint64_t at = follow(reader, position);
  if (at % 4 != 0 || !inside(reader, at, 4)) return malformed(reader, what, position);
  uint32_t count = load_u32(reader, (uint32_t)at);
  /* The first element of an empty vector may lie at the very end; only a full one needs its elements aligned. */
  if (!inside(reader, at + 4, (uint64_t)count * width) || (count > 0 && (at + 4) % width != 0)) {
    return malformed(reader, what, (uint32_t)at);
  }
  list->at = (uint32_t)at + 4;
  list->count = count;
  return true;
}

bool fb_string(const fb_reader *reader, const fb_table *table, uint32_t field, const char *what, fb_vector *string) {
  if (!fb_list(reader, table, field, 1, what, string)) return false;
  if (string->at == 0) return true;
  if (!inside(reader, string->at, (uint64_t)string->count + 1) || reader->bytes[string->at + string->count] != 0) {
    return malformed(reader, what, string->at);
  }
  return true;
}

bool fb_list_table(const fb_reader *reader, const fb_vector *list, uint32_t index, const char *what, fb_table *table) {
  return open_table(reader, follow(reader, list->at + 4 * index), what, table);
}

uint32_t fb_list_u32(const fb_reader *reader, const fb_vector *list, uint32_t index) {
  return load_u32(reader, list->at + 4 * index);
}

uint64_t fb_list_u64(const fb_reader *reader, const fb_vector *list, uint32_t index) {
  return load_u64(reader, list->at + 8 * index);
}
