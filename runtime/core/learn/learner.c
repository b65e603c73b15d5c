/* A learner: the memory of a trainable tail, and one step of stochastic gradient descent on it. */
#include <string.h>

#include "error.h"
#include "kernels/math_f32.h"
#include "learn/chain.h"
#include "learn/learner.h"
#include "plan.h"

static const edge_layer *last_of(const edge_learner *learner) { return &learner->layers[learner->count - 1]; }

/* Whether a convolution begins the tail whose image has its channels last: it is turned to what the tail works on. */
static bool is_turned(const edge_chain *chain) {
  return chain->entry->channels_last && chain->layers[0].kind == EDGE_LAYER_CONVOLUTION;
}

/* A norm that begins the tail writes to where it reads: nothing behind it asks for what was there. */
static bool is_in_place(const edge_chain *chain, uint32_t index) {
  return index == 0 && chain->layers[0].kind == EDGE_LAYER_NORM;
}

/* Adds up what a chain takes. */
static edge_status measure(const edge_chain *chain, edge_learn_budget *budget, edge_error *error) {
  uint64_t parameters = 0, activations = is_turned(chain) ? chain->layers[0].inputs : 0, plane = 0;
  uint64_t windows = 0;
  for (uint32_t i = 0; i < chain->count; ++i) {
    const edge_layer *layer = &chain->layers[i];
    parameters += (uint64_t)layer->rows * ((uint64_t)layer->depth + 1);
    if (!is_in_place(chain, i)) activations += layer->outputs;
    if (layer->window == NULL) continue;
    ++windows;
    const uint64_t size = (uint64_t)layer->window->height * (uint64_t)layer->window->width;
    if (i > 0 && size > plane) plane = size;
  }
  const uint64_t state = sizeof(edge_learner) + chain->count * sizeof(edge_layer) + windows * sizeof(edge_conv2d);
  const uint64_t total = state + (parameters + activations + plane) * sizeof(float);
  if (parameters > UINT32_MAX || total > SIZE_MAX / 2) {
    return edge_set_error(error, EDGE_UNSUPPORTED, "learning needs more memory than this machine can address");
  }
  *budget = (edge_learn_budget){
      .total_bytes = ((size_t)total + 15) & ~(size_t)15,
      .state_bytes = (size_t)state,
      .weight_bytes = (size_t)parameters * sizeof(float),
      .activation_bytes = (size_t)activations * sizeof(float),
      .gradient_bytes = (size_t)plane * sizeof(float),
      .layers = chain->weighted,
      .classes = chain->layers[chain->count - 1].outputs,
      .parameters = (uint32_t)parameters,
      .body = chain->body,
  };
  return EDGE_OK;
}

edge_status edge_learn_measure(const edge_model *model, const edge_learn_plan *plan, edge_learn_budget *budget,
                               edge_error *error) {
  edge_chain chain;
  memset(budget, 0, sizeof *budget);
  const edge_status status = edge_find_chain(model, plan, &chain, error);
  return status == EDGE_OK ? measure(&chain, budget, error) : status;
}

/* Takes `count` floats off a region that was measured. */
static float *take(float **region, size_t count) {
  float *taken = *region;
  *region += count;
  return taken;
}

edge_status edge_learn_prepare(edge_model *model, const edge_learn_plan *plan, void *block, size_t block_bytes,
                               edge_learner **learner, edge_error *error) {
  edge_chain chain;
  edge_learn_budget budget;
  *learner = NULL;
  edge_status status = edge_find_chain(model, plan, &chain, error);
  if (status == EDGE_OK) status = measure(&chain, &budget, error);
  if (status != EDGE_OK) return status;
  if ((uintptr_t)block % 16 != 0 || block_bytes < budget.total_bytes) {
    return edge_set_error(error, EDGE_BAD_ARGUMENT, "learning needs %lu bytes at a multiple of 16, %lu given",
                          (unsigned long)budget.total_bytes, (unsigned long)block_bytes);
  }
  memset(block, 0, budget.total_bytes);
  edge_learner *built = block;
  built->model = model;
  built->plan = *plan;
  built->plan.layers = budget.layers;
  built->plan.classes = budget.classes;
  built->layers = (edge_layer *)(built + 1);
  built->count = chain.count;
  built->body = chain.body;
  built->softmax = chain.softmax;
  built->parameters = budget.parameters;
  edge_conv2d *window = (edge_conv2d *)(built->layers + chain.count);
  uint32_t windows = 0;
  for (uint32_t i = 0; i < chain.count; ++i) windows += chain.layers[i].window != NULL;
  float *region = (float *)(window + windows);
  built->weights = take(&region, budget.parameters);
  built->entry = chain.entry;
  built->x = chain.entry->data;
  if (is_turned(&chain)) built->x = take(&region, chain.layers[0].inputs);
  float *weights = built->weights;
  for (uint32_t i = 0; i < chain.count; ++i) {
    edge_layer *layer = &built->layers[i];
    *layer = chain.layers[i];
    if (layer->window != NULL) {
      *window = *layer->window;
      layer->window = window++;
    }
    if (layer->weight != NULL) layer->weights = take(&weights, (size_t)layer->rows * ((size_t)layer->depth + 1));
    layer->y = is_in_place(&chain, i) ? built->x : take(&region, layer->outputs);
  }
  built->plane = region;
  edge_learn_reset(built);
  *learner = built;
  return EDGE_OK;
}

void edge_learn_reset(edge_learner *learner) {
  for (uint32_t i = 0; i < learner->count; ++i) {
    if (learner->layers[i].weight != NULL) edge_initial_weights(&learner->layers[i]);
  }
  learner->samples = 0;
}

void edge_learn_set_rate(edge_learner *learner, float learning_rate) { learner->plan.learning_rate = learning_rate; }

float *edge_learn_weights(edge_learner *learner, size_t *count) {
  *count = learner->parameters;
  return learner->weights;
}

uint32_t edge_learn_samples(const edge_learner *learner) { return learner->samples; }

void edge_learn_set_samples(edge_learner *learner, uint32_t samples) { learner->samples = samples; }

const float *edge_learn_outputs(const edge_learner *learner, size_t *count) {
  *count = learner->plan.classes;
  return last_of(learner)->y;
}

/* [channels, pixels] of an image whose channels come last. */
static void turn(const edge_conv2d *window, const float *from, float *to) {
  const size_t channels = (size_t)window->channels, pixels = (size_t)window->height * (size_t)window->width;
  for (size_t c = 0; c < channels; ++c) {
    for (size_t i = 0; i < pixels; ++i) *to++ = from[i * channels + c];
  }
}

/* From the model's input to the last layer's outputs. */
static edge_status forward(edge_learner *learner, edge_error *error) {
  const edge_status status = edge_run_calls(learner->model, learner->body, NULL, NULL, error);
  if (status != EDGE_OK) return status;
  if (learner->x != learner->entry->data) turn(learner->layers[0].window, learner->entry->data, learner->x);
  float *x = learner->x;
  for (uint32_t i = 0; i < learner->count; ++i) {
    edge_layer_forward(&learner->layers[i], x);
    x = learner->layers[i].y;
  }
  for (uint32_t i = 0; i < learner->plan.classes; ++i) {
    if (x[i] - x[i] == 0.0f) continue;
    return edge_set_error(error, EDGE_BAD_ARGUMENT, "output %lu of the learned layers is not finite: the learning rate "
                          "was too high, or the input is not finite", (unsigned long)i);
  }
  return EDGE_OK;
}

static void softmax(const edge_learner *learner) {
  const edge_layer *last = last_of(learner);
  last->call->kernels->f32_softmax(last->outputs, last->y, last->y);
}

edge_status edge_learn_predict(edge_learner *learner, edge_error *error) {
  const edge_status status = forward(learner, error);
  if (status == EDGE_OK && learner->softmax) softmax(learner);
  return status;
}

/* Replaces the outputs by the loss's gradient. The target: `target`, or 1 at `index` and 0 elsewhere where it is NULL. */
static void gradient_of_loss(const edge_learner *learner, const float *target, uint32_t index,
                             edge_learn_result *result) {
  const edge_layer *last = last_of(learner);
  float *y = last->y;
  for (uint32_t i = 1; i < last->outputs; ++i) {
    if (y[i] > y[result->predicted]) result->predicted = i;
  }
  const bool squared = learner->plan.loss == EDGE_LOSS_SQUARED;
  if (!squared) softmax(learner);
  for (uint32_t i = 0; i < last->outputs; ++i) {
    const float wanted = target != NULL ? target[i] : i == index ? 1.0f : 0.0f, off = y[i] - wanted;
    result->fit += squared ? 0.5f * (off * off) : wanted * y[i];
    y[i] = squared ? off * edge_slope(y[i], last->activation) : off;
  }
}

static edge_status learn(edge_learner *learner, const float *target, uint32_t index, edge_learn_result *result,
                         edge_error *error) {
  const edge_status status = forward(learner, error);
  if (status != EDGE_OK) return status;
  edge_learn_result found = {0, 0.0f};
  gradient_of_loss(learner, target, index, &found);
  for (uint32_t i = learner->count; i-- > 0;) {
    float *x = i > 0 ? learner->layers[i - 1].y : learner->x;
    const int before = i > 0 ? learner->layers[i - 1].activation : EDGE_ACT_NONE;
    edge_layer_back(&learner->layers[i], x, i == 0, before, learner->plan.learning_rate, learner->plane);
  }
  if (learner->samples < UINT32_MAX) ++learner->samples;
  if (result != NULL) *result = found;
  return EDGE_OK;
}

edge_status edge_learn_class(edge_learner *learner, uint32_t index, edge_learn_result *result, edge_error *error) {
  if (learner->plan.loss == EDGE_LOSS_CROSS_ENTROPY && index < learner->plan.classes) {
    return learn(learner, NULL, index, result, error);
  }
  return edge_set_error(error, EDGE_BAD_ARGUMENT, learner->plan.loss == EDGE_LOSS_CROSS_ENTROPY
                            ? "class %lu: the learner has %lu" : "class %lu: a learner of the squared loss takes targets of %lu values",
                        (unsigned long)index, (unsigned long)learner->plan.classes);
}

edge_status edge_learn_target(edge_learner *learner, const float *target, edge_learn_result *result,
                              edge_error *error) {
  for (uint32_t i = 0; i < learner->plan.classes; ++i) {
    if (target[i] - target[i] == 0.0f) continue;
    return edge_set_error(error, EDGE_BAD_ARGUMENT, "target %lu is not finite", (unsigned long)i);
  }
  return learn(learner, target, 0, result, error);
}
