/* Strided walks and element access; see walk.h. */
#include "ops/walk.h"

#include <string.h>

void edge_walk_over(edge_walk *walk, const int32_t *sizes, uint32_t rank) {
  memset(walk, 0, sizeof *walk);
  walk->rank = rank > 0 ? rank : 1;
  walk->size[0] = 1;
  walk->more = true;
  for (uint32_t d = 0; d < rank; ++d) {
    walk->size[d] = sizes[d];
    if (sizes[d] == 0) walk->more = false;
  }
  walk->row = walk->size[walk->rank - 1];
}

void edge_walk_broadcast(edge_walk *walk, uint32_t operand, const edge_tensor *tensor) {
  int64_t step = 1;
  for (uint32_t d = tensor->rank, at = walk->rank; d-- > 0;) {
    walk->step[operand][--at] = tensor->sizes[d] == 1 ? 0 : step;
    step *= tensor->sizes[d];
  }
}

void edge_walk_next(edge_walk *walk) {
  for (uint32_t d = walk->rank - 1; d-- > 0;) {
    if (++walk->index[d] < walk->size[d]) {
      for (uint32_t o = 0; o < EDGE_WALK_OPERANDS; ++o) walk->offset[o] += walk->step[o][d];
      return;
    }
    for (uint32_t o = 0; o < EDGE_WALK_OPERANDS; ++o) walk->offset[o] -= walk->step[o][d] * (walk->size[d] - 1);
    walk->index[d] = 0;
  }
  walk->more = false;
}

/* rows x columns words, block by block: of a matrix that is turned, each cache line is then read once. */
static void copy_words(int64_t rows, int64_t columns, const uint32_t *in, int64_t row_step, int64_t step,
                       uint32_t *out) {
  enum { BLOCK = 16 };
  for (int64_t r = 0; r < rows; r += BLOCK) {
    for (int64_t c = 0; c < columns; c += BLOCK) {
      for (int64_t i = r; i < rows && i < r + BLOCK; ++i) {
        for (int64_t j = c; j < columns && j < c + BLOCK; ++j) out[i * columns + j] = in[i * row_step + j * step];
      }
    }
  }
}

void edge_copy_walked(edge_walk *walk, const void *in, void *out, size_t element_bytes) {
  const int64_t step = edge_walk_step(walk, 0);
  const int64_t rows = walk->rank > 1 ? walk->size[walk->rank - 2] : 1;
  char *to = out;
  for (; walk->more; edge_walk_next(walk)) {
    const char *from = (const char *)in + walk->offset[0] * (int64_t)element_bytes;
    if (step == 1) {
      memmove(to, from, (size_t)walk->row * element_bytes);
    } else if (element_bytes == 4) {
      const int64_t row_step = walk->rank > 1 ? walk->step[0][walk->rank - 2] : 0;
      copy_words(rows, walk->row, (const uint32_t *)(const void *)from, row_step, step, (uint32_t *)(void *)to);
      for (int64_t r = 1; r < rows; ++r) edge_walk_next(walk);
      to += (size_t)(rows - 1) * (size_t)walk->row * element_bytes;
    } else {
      for (int64_t i = 0; i < walk->row; ++i) {
        memmove(to + (size_t)i * element_bytes, from + i * step * (int64_t)element_bytes, element_bytes);
      }
    }
    to += (size_t)walk->row * element_bytes;
  }
}

edge_status edge_broadcast_shape(edge_call *call, const int32_t *a, uint32_t a_rank, const edge_tensor *b,
                                 int32_t sizes[EDGE_MAX_RANK], uint32_t *rank) {
  const uint32_t b_rank = b->rank, out_rank = a_rank > b_rank ? a_rank : b_rank;
  int32_t result[EDGE_MAX_RANK] = {0};
  for (uint32_t d = 0; d < out_rank; ++d) { /* from the last dimension backwards */
    const int32_t left = d < a_rank ? a[a_rank - 1 - d] : 1, right = d < b_rank ? b->sizes[b_rank - 1 - d] : 1;
    if (left != right && left != 1 && right != 1) {
      edge_shape_text a_text, b_text;
      return edge_fail(call, EDGE_BAD_ARGUMENT, "shapes %s and %s do not broadcast",
                       edge_shape_string(&a_text, a, a_rank), edge_shape_string(&b_text, b->sizes, b_rank));
    }
    result[out_rank - 1 - d] = left == 1 ? right : left;
  }
  memcpy(sizes, result, sizeof result);
  *rank = out_rank;
  return EDGE_OK;
}

int64_t edge_load_int(const edge_tensor *tensor, int64_t at) {
  switch (tensor->dtype) {
    case EDGE_INT64: return ((const int64_t *)tensor->data)[at];
    case EDGE_INT32: return ((const int32_t *)tensor->data)[at];
    case EDGE_INT16: return ((const int16_t *)tensor->data)[at];
    case EDGE_INT8: return ((const int8_t *)tensor->data)[at];
    case EDGE_BOOL: return ((const uint8_t *)tensor->data)[at] != 0; /* a file's bool byte may hold anything */
    default: return ((const uint8_t *)tensor->data)[at];
  }
}

float edge_load_float(const edge_tensor *tensor, int64_t at) {
  return edge_is_float(tensor) ? ((const float *)tensor->data)[at] : (float)edge_load_int(tensor, at);
}

void edge_store_int(const edge_tensor *tensor, int64_t at, int64_t value) {
  switch (tensor->dtype) {
    case EDGE_FLOAT32: ((float *)tensor->data)[at] = (float)value; break;
    case EDGE_INT64: ((int64_t *)tensor->data)[at] = value; break;
    case EDGE_INT32: ((int32_t *)tensor->data)[at] = (int32_t)value; break;
    case EDGE_INT16: ((int16_t *)tensor->data)[at] = (int16_t)value; break;
    case EDGE_INT8: ((int8_t *)tensor->data)[at] = (int8_t)value; break;
    case EDGE_BOOL: ((uint8_t *)tensor->data)[at] = value != 0; break;
    default: ((uint8_t *)tensor->data)[at] = (uint8_t)value; break;
  }
}

/* `value` cut to a whole number and to the range of an integer dtype; 0 for NaN. */
static int64_t saturated(uint8_t dtype, double value) {
  const bool is_signed = dtype != EDGE_UINT8;
  const uint32_t bits = 8 * (uint32_t)edge_dtype_bytes(dtype) - is_signed;
  const int64_t high = (int64_t)((UINT64_C(1) << bits) - 1), low = is_signed ? -high - 1 : 0;
  if (value != value) return 0;
  /* The largest int64 is no double, the one above it is: what is not below that cannot be converted. */
  if (value >= (double)high) return high;
  return value <= (double)low ? low : (int64_t)value;
}

/* A double, so that integers beyond float32's 24 bits stay what they are. */
static void store_real(const edge_tensor *tensor, int64_t at, double value) {
  if (edge_is_float(tensor)) {
    ((float *)tensor->data)[at] = (float)value;
  } else if (tensor->dtype == EDGE_BOOL) {
    ((uint8_t *)tensor->data)[at] = value != 0.0;
  } else {
    edge_store_int(tensor, at, saturated(tensor->dtype, value));
  }
}

void edge_store_float(const edge_tensor *tensor, int64_t at, float value) { store_real(tensor, at, value); }

void edge_fill(const edge_tensor *tensor, const edge_value *scalar) {
  for (int64_t i = 0, n = edge_elements(tensor); i < n; ++i) {
    if (scalar->kind == EDGE_DOUBLE) {
      store_real(tensor, i, scalar->as.real);
    } else {
      edge_store_int(tensor, i, edge_whole(scalar));
    }
  }
}
