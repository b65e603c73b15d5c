/* The weights that a learner starts from: the program's own, as float32. */
#include <string.h>

#include "kernels/layouts.h"
#include "learn/chain.h"
#include "ops/edge_args.h"

/* Codes of `bits` bits, little end first, of which `zero` stands for 0; codes of 8 bits are signed. */
static float code_at(const uint8_t *row, uint32_t bits, int zero, size_t k) {
  if (bits == 8) return (float)(int8_t)row[k];
  const uint32_t codes = 8 / bits;
  return (float)((row[k / codes] >> k % codes * bits & ((1 << bits) - 1)) - zero);
}

/* Integer weights times their scale, which is one for all or one a row. */
static void dequantize(const edge_layer *layer, uint32_t rows) {
  const edge_tensor *scales = edge_tensor_at(layer->call, 2);
  const uint32_t bits = layer->bits == 1 ? 2 : layer->bits; /* a ternary weight takes two */
  const int zero = layer->bits == 1 ? 1 : bits == 2 ? 2 : 8;
  const size_t row_bytes = ((size_t)layer->depth * bits + 7) / 8;
  const uint8_t *codes = layer->weight->data;
  if (layer->weight->rank > 2) { /* a microcontroller's layout: rows of it at the end of the memory that is filled */
    uint8_t *end = (uint8_t *)(layer->weights + (size_t)rows * layer->depth);
    codes = end - rows * row_bytes;
    edge_layout_to_rows(layer->weight->rank - 2, rows, layer->depth, layer->weight->data, end - rows * row_bytes);
  }
  for (uint32_t n = 0; n < rows; ++n) {
    const uint8_t *row = codes + n * row_bytes;
    const float scale = ((const float *)scales->data)[scales->sizes[0] == 1 ? 0 : n];
    float *to = layer->weights + (size_t)n * layer->depth;
    for (uint32_t k = 0; k < layer->depth; ++k) to[k] = code_at(row, bits, zero, k) * scale; /* never beyond the next code */
  }
}

/* The new rows of a matrix, each the mean of the `rows` that are there: summed in order, times 1 / rows. */
static void add_rows(float *matrix, uint32_t rows, uint32_t wanted, uint32_t depth) {
  if (rows == wanted) return;
  const float share = 1.0f / (float)rows;
  for (uint32_t k = 0; k < depth; ++k) {
    float sum = 0.0f;
    for (uint32_t n = 0; n < rows; ++n) sum += matrix[(size_t)n * depth + k];
    for (uint32_t n = rows; n < wanted; ++n) matrix[(size_t)n * depth + k] = sum * share;
  }
}

void edge_initial_weights(const edge_layer *layer) {
  const edge_tensor *weight = layer->weight, *bias = layer->bias;
  const uint32_t rows = (uint32_t)weight->sizes[layer->transposed ? 1 : 0], depth = layer->depth;
  if (layer->bits != 0) {
    dequantize(layer, rows);
  } else if (layer->transposed) {
    for (uint32_t n = 0; n < rows; ++n) {
      for (uint32_t k = 0; k < depth; ++k) {
        layer->weights[(size_t)n * depth + k] = ((const float *)weight->data)[(size_t)k * rows + n];
      }
    }
  } else {
    memcpy(layer->weights, weight->data, (size_t)rows * depth * sizeof(float));
  }
  float *biases = layer->weights + (size_t)layer->rows * depth;
  if (bias != NULL) {
    memcpy(biases, bias->data, rows * sizeof(float));
  } else {
    memset(biases, 0, rows * sizeof(float));
  }
  add_rows(layer->weights, rows, layer->rows, depth);
  add_rows(biases, rows, layer->rows, 1);
}
