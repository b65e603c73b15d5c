/* Learning on the device: stochastic gradient descent, one sample at a time, on the last layers of a prepared model.
 *
 * The trainable tail is a chain of layers that is recognised in the program's instructions, from its output back. What
 * comes before it, the body, stays frozen and runs as it always does, on the core's kernels; the tail runs in float32,
 * from weights that start as those of the program (ternary and integer ones times their scale) and lie in the caller's
 * memory. A tail of one layer is a new head on a ternary body; one that reaches back to the input trains the whole of
 * a small MLP or CNN. chain.h says which operators fit; a program that has others there is refused with their name.
 *
 *   edge_learn_plan plan = {.layers = 1, .classes = 0, .learning_rate = 0.01f};
 *   edge_learn_budget need;
 *   edge_learn_measure(model, &plan, &need, &error);             the RAM that it takes, before it takes it
 *   edge_learn_prepare(model, &plan, block, need.total_bytes, &learner, &error);
 *   memcpy(edge_input(model, 0)->data, ...);  edge_learn_class(learner, 3, &result, &error);
 *   memcpy(edge_input(model, 0)->data, ...);  edge_learn_predict(learner, &error);  edge_learn_outputs(learner, &count)
 *
 * No heap, no globals, no libm beyond kernels/math_f32.h, float32 throughout. The order of operations is fixed
 * (docs/operators.md, "Learning"), and export/learning_reference.py does the same in numpy, bit by bit.
 */
#ifndef EDGE_LEARN_H
#define EDGE_LEARN_H

#include "edge_core.h"

#ifdef __cplusplus
extern "C" {
#endif

/* As many layers as the program has: the tail must then reach its input. */
#define EDGE_LEARN_ALL UINT32_MAX
#define EDGE_LEARN_MAX_CLASSES 65536

typedef enum edge_loss {
  EDGE_LOSS_CROSS_ENTROPY = 0, /* of the softmax of the outputs, which are logits */
  EDGE_LOSS_SQUARED = 1,       /* half the sum of (output - target)^2; takes target vectors alone */
} edge_loss;

typedef struct edge_learn_plan {
  uint32_t layers;     /* with weights, counted from the output; at least 1, or EDGE_LEARN_ALL */
  uint32_t classes;    /* outputs; 0: the program's. More: each new one starts as the mean of the program's */
  float learning_rate; /* above 0 */
  uint32_t loss;       /* edge_loss */
} edge_learn_plan;

typedef struct edge_learn_budget {
  size_t total_bytes;      /* what edge_learn_prepare wants, at a multiple of 16; the sum of the rest, rounded up */
  size_t state_bytes;      /* the learner itself and its table of layers */
  size_t weight_bytes;     /* trainable weights, float32 */
  size_t activation_bytes; /* each layer's outputs, which the way back needs; gradients take their place */
  size_t gradient_bytes;   /* temporary, of the way back */
  uint32_t layers;         /* with weights */
  uint32_t classes;        /* outputs */
  uint32_t parameters;     /* trainable weights and biases */
  uint32_t body;           /* instructions of the program that run before the tail */
} edge_learn_budget;

typedef struct edge_learner edge_learner;

/* What was known of a sample before it was learned: accuracy over these is an honest one ("test, then train"). */
typedef struct edge_learn_result {
  uint32_t predicted; /* the largest output; the first of equals */
  float fit;          /* cross-entropy: the sum of target * probability, so the true class's; squared: the loss */
} edge_learn_result;

/* `budget` also tells the layers and classes that a plan of EDGE_LEARN_ALL or 0 comes to. Reads no tensor's data. */
edge_status edge_learn_measure(const edge_model *model, const edge_learn_plan *plan, edge_learn_budget *budget,
                               edge_error *error);
/* The learner keeps `model`, whose block must outlive it; `model` may still be run as it is. */
edge_status edge_learn_prepare(edge_model *model, const edge_learn_plan *plan, void *block, size_t block_bytes,
                               edge_learner **learner, edge_error *error);

/* The sample is in the model's input tensors, which are overwritten, as by edge_run: set them before each call. */
edge_status edge_learn_predict(edge_learner *learner, edge_error *error);
/* What edge_learn_predict computed, until anything else is called; `count` is the number of classes. */
const float *edge_learn_outputs(const edge_learner *learner, size_t *count);

/* Runs the sample, then takes one step. `result` may be NULL. Refuses an index that is no class, and outputs that are
 * not finite (a learning rate too high, an input with NaN): the weights are then as they were before the call. */
edge_status edge_learn_class(edge_learner *learner, uint32_t index, edge_learn_result *result, edge_error *error);
/* The same with a target vector of as many values as classes; probabilities, where the loss is cross-entropy. */
edge_status edge_learn_target(edge_learner *learner, const float *target, edge_learn_result *result,
                              edge_error *error);

void edge_learn_set_rate(edge_learner *learner, float learning_rate);
/* Back to the program's own weights. */
void edge_learn_reset(edge_learner *learner);

/* Every trainable weight, layer after layer from the input on: [outputs, inputs] row-major, then [outputs] biases. May
 * be read and written between calls: a round of federated learning adds to them, say. */
float *edge_learn_weights(edge_learner *learner, size_t *count);
/* Samples learned since the weights were the program's, those of loaded weights included. */
uint32_t edge_learn_samples(const edge_learner *learner);
/* For weights that come from elsewhere, with samples that were learned there. */
void edge_learn_set_samples(edge_learner *learner, uint32_t samples);

/* --- learned weights as bytes: of a file on a Pi, of flash on a board, of a frame on the wire ------------------------
 *
 * A header, then the weights as float32 in little-endian order. The header:
 *
 *    0  "EDGW"
 *    4  u16  version, 1
 *    6  u16  layers
 *    8  u32  classes
 *   12  u32  weights that follow
 *   16  u32  samples learned
 *   20  f32  learning rate
 *   24  u32  loss
 *   28  u32  0
 *   32  SHA-256 of the program (the .pte's bytes)
 *   64  SHA-256 of bytes 0 to 63 and the weights
 */
#define EDGE_LEARNED_HEADER_BYTES 96
#define EDGE_LEARNED_HASH_BYTES 32

/* The header of the weights as they are; the weights themselves are edge_learn_weights(). */
void edge_learned_header(edge_learner *learner, const uint8_t program_hash[EDGE_LEARNED_HASH_BYTES],
                         uint8_t header[EDGE_LEARNED_HEADER_BYTES]);
/* What to prepare a learner with for these weights. Trusts nothing: checks all that can be checked without a model,
 * the hashes included; `bytes` may be more than they take. `used` (or NULL) is what they do take. */
edge_status edge_learned_plan(const void *blob, size_t bytes, const uint8_t program_hash[EDGE_LEARNED_HASH_BYTES],
                              edge_learn_plan *plan, size_t *used, edge_error *error);
/* Takes the weights over, all or none. */
edge_status edge_learned_load(edge_learner *learner, const void *blob, size_t bytes,
                              const uint8_t program_hash[EDGE_LEARNED_HASH_BYTES], edge_error *error);

#ifdef __cplusplus
}
#endif
#endif
