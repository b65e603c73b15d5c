/* Ternary weights in a microcontroller's layout, made row-major for other kernels; see layouts.h. */
#include "kernels/layouts.h"

#include <string.h>

const char *edge_layout_name(int layout) {
  static const char *const names[EDGE_LAYOUT_COUNT] = {"rows", "pairs", "trits", "planes"};
  return names[layout];
}

size_t edge_layout_row_bytes(int layout, size_t k) {
  switch (layout) {
    case EDGE_LAYOUT_PAIRS: return (k + 7) / 8 * 2;
    case EDGE_LAYOUT_TRITS: return (k + 4) / 5;
    default: return (k + 3) / 4;
  }
}

/* Sets column k of a row, which is still zero there. */
static inline void put(uint8_t *row, size_t k, unsigned code) { row[k / 4] |= (uint8_t)(code << k % 4 * 2); }

static void pairs_to_rows(size_t n, size_t k, const uint8_t *weight, uint8_t *rows) {
  const size_t width = (k + 3) / 4, groups = (k + 7) / 8;
  for (size_t first = 0; first < n; first += 8) {
    const size_t count = n - first < 8 ? n - first : 8;
    uint8_t *block = rows + first * width;
    for (size_t g = 0; g < groups; ++g) {
      for (size_t pair = 0; pair < count / 2; ++pair, weight += 4) {
        const uint32_t word = (uint32_t)weight[0] | (uint32_t)weight[1] << 8 | (uint32_t)weight[2] << 16 |
                              (uint32_t)weight[3] << 24;
        for (unsigned step = 0; step < 4; ++step) {
          const uint32_t lanes = step == 0 ? word : word >> 4 * step | word << (32 - 4 * step);
          for (unsigned lane = 0; lane < 2; ++lane) {
            const size_t column = 8 * g + step % 2 + step / 2 * 4 + 2 * lane;
            if (column >= k) continue;
            put(block + 2 * pair * width, column, lanes >> 16 * lane & 3);
            put(block + (2 * pair + 1) * width, column, ((lanes >> (16 * lane + 14)) + 1) & 3);
          }
        }
      }
    }
    if (count % 2 == 0) continue;
    memcpy(block + (count - 1) * width, weight, width);
    weight += 2 * groups;
  }
}

static void trits_to_rows(size_t n, size_t k, const uint8_t *weight, uint8_t *rows) {
  const size_t width = (k + 3) / 4, groups = (k + 4) / 5;
  for (size_t first = 0, pass; first < groups; first += pass) {
    pass = groups - first >= 8 ? 8 : groups - first >= 4 ? 4 : 1;
    for (size_t o = 0; o < n; ++o) {
      for (size_t g = first; g < first + pass; ++g) {
        const unsigned byte = *weight++, half = byte >= 126 ? 126 : 0, block = (byte - half) / 14;
        const unsigned low = (byte - half) % 14 + (half ? 14 : 0);
        const unsigned digits[5] = {low % 3, low / 3 % 3, low / 9, block % 3, block / 3};
        for (size_t j = 0; j < 5 && 5 * g + j < k; ++j) put(rows + o * width, 5 * g + j, digits[j]);
      }
    }
  }
}

static void planes_to_rows(size_t n, size_t k, const uint8_t *weight, uint8_t *rows) {
  const size_t width = (k + 3) / 4;
  for (size_t o = 0; o < n; ++o) {
    for (size_t first = 0; first < k; first += 64) {
      const size_t bytes = k - first < 64 ? (k - first + 3) / 4 : 16;
      for (size_t i = 0; i < 4 * bytes; ++i) {
        const size_t column = first + i;
        if (column < k) put(rows + o * width, column, weight[i % bytes] >> i / bytes * 2 & 3);
      }
      weight += bytes;
    }
  }
}

void edge_layout_to_rows(int layout, size_t n, size_t k, const uint8_t *weight, uint8_t *rows) {
  memset(rows, 0, n * edge_layout_row_bytes(EDGE_LAYOUT_ROWS, k));
  switch (layout) {
    case EDGE_LAYOUT_PAIRS: pairs_to_rows(n, k, weight, rows); break;
    case EDGE_LAYOUT_TRITS: trits_to_rows(n, k, weight, rows); break;
    default: planes_to_rows(n, k, weight, rows); break;
  }
}
