/* Recognises the trainable tail in a program's instructions: chain.h says what fits.
 *
 * The instructions were checked when the program was loaded, so their arguments are what the operators take. */
#include "learn/chain.h"

#include <string.h>

#include "error.h"
#include "kernels/math_f32.h"
#include "ops/args.h"

/* What else than a layer an instruction may be. */
enum { ACTIVATION = 16, COPY, SOFTMAX };

/* Where an operator has what; 0 where it has no such argument (but `x`, which may be the first). */
typedef struct form {
  const char *name; /* without namespace and overload */
  char namespace;   /* its first letter */
  uint8_t kind, x, weight, bias, residual, activation;
  uint8_t option; /* bits of integer weights, or the first pair of a window: a pool's kernel, else the stride */
  uint8_t norm_eps, groups;
  uint8_t pool; /* the first argument of the pool behind a convolution */
} form;

static const form forms[] = {
    {"ternary_linear", 'e', EDGE_LAYER_DENSE, 0, 1, 3, 4, 6, 0, 5, 0},
    {"int_linear", 'e', EDGE_LAYER_DENSE, 0, 1, 3, 4, 7, 5, 6, 0},
    {"linear", 'e', EDGE_LAYER_DENSE, 0, 1, 2, 3, 4, 0, 0, 0},
    {"linear", 'a', EDGE_LAYER_DENSE, 0, 1, 2, 0, 0, 0, 0, 0},
    {"mm", 'a', EDGE_LAYER_DENSE, 0, 1, 0, 0, 0, 0, 0, 0},
    {"addmm", 'a', EDGE_LAYER_DENSE, 1, 2, 0, 0, 0, 0, 0, 0},
    {"conv2d", 'e', EDGE_LAYER_CONVOLUTION, 0, 1, 2, 3, 8, 4, 0, 7},
    {"conv2d_max_pool2d", 'e', EDGE_LAYER_CONVOLUTION, 0, 1, 2, 0, 7, 3, 0, 6, 8},
    {"convolution", 'a', EDGE_LAYER_CONVOLUTION, 0, 1, 2, 0, 0, 3, 0, 8},
    {"max_pool2d", 'e', EDGE_LAYER_MAX_POOL, .option = 1},
    {"max_pool2d_with_indices", 'a', EDGE_LAYER_MAX_POOL, .option = 1},
    {"avg_pool2d", 'a', EDGE_LAYER_MEAN_POOL, .option = 1},
    {"_adaptive_avg_pool2d", 'a', EDGE_LAYER_MEAN_POOL},
    {"mean", 'a', EDGE_LAYER_MEAN_POOL},
    {"relu", 'a', ACTIVATION, .activation = EDGE_ACT_RELU},
    {"hardtanh", 'a', ACTIVATION, .activation = EDGE_ACT_RELU6},
    {"sigmoid", 'a', ACTIVATION, .activation = EDGE_ACT_SIGMOID},
    {"tanh", 'a', ACTIVATION, .activation = EDGE_ACT_TANH},
    {"view_copy", 'a', COPY},
    {"squeeze_copy", 'a', COPY},
    {"clone", 'a', COPY},
    {"_clone_dim_order", 'd', COPY},
    {"_softmax", 'a', SOFTMAX},
};
/* Those that want to be looked at more closely. */
enum { TERNARY_LINEAR = 0, MM = 4, ADDMM = 5, CONVOLUTION = 8, AVG_POOL = 11, MEAN = 13, HARDTANH = 15 };

static bool is_named(const char *full, char namespace, const char *name) {
  const size_t length = strlen(name);
  const char *bare = strchr(full, ':');
  return full[0] == namespace && bare != NULL && strncmp(bare + 2, name, length) == 0 && bare[2 + length] == '.';
}

/* A search from the output back; layers are found in reverse. */
typedef struct search {
  const edge_model *model;
  edge_chain *chain;
  edge_error *error;
  const edge_tensor *read; /* of which the writer is wanted; then the name that it wrote it under */
  const edge_call *call;   /* that writer */
  uint32_t index;
  uint8_t activation; /* that follows the layer to come */
} search;

/* The instruction before `end` that wrote a tensor last, `end` where none did; and under which name it wrote exactly
 * that, NULL where it wrote more, or a part, or a list. Views are other names of the same memory. */
static uint32_t find_writer(const edge_model *model, const edge_tensor *read, uint32_t end, const edge_tensor **name) {
  const uintptr_t first = (uintptr_t)read->data;
  for (uint32_t i = end; i-- > 0;) {
    const edge_call *call = edge_instruction(model, i);
    for (uint32_t j = edge_first_output(call->op); j < call->arg_count; ++j) {
      const edge_value *value = call->args[j];
      const bool list = value->kind == EDGE_TENSOR_LIST;
      for (uint32_t k = 0; k < (list ? value->count : 1); ++k) {
        const edge_tensor *written = list ? &value->as.tensors[k]->as.tensor : &value->as.tensor;
        const uintptr_t begin = (uintptr_t)written->data;
        if (begin >= first + read->bytes || first >= begin + written->bytes) continue;
        *name = !list && begin == first && written->bytes == read->bytes ? written : NULL;
        return i;
      }
    }
  }
  return end;
}

/* Names what stands in the way, and what can be had without it. */
#ifdef EDGE_TERSE
#define refuse(own, what) refuse_at((own), __LINE__)
static edge_status refuse_at(const search *own, int line) {
  return (edge_set_error)(own->error, EDGE_UNSUPPORTED, "%s: chain.c:%d", own->call->op->name, line);
}
#else
static edge_status refuse(const search *own, const char *what) {
  return edge_set_error(own->error, EDGE_UNSUPPORTED,
                        "instruction %lu, %s: %s cannot be learned through; layers behind it that can learn: %lu",
                        (unsigned long)own->index, own->call->op->name, what, (unsigned long)own->chain->weighted);
}
#endif

/* Of float32. */
static uint32_t elements(const edge_tensor *tensor) { return (uint32_t)(tensor->bytes / sizeof(float)); }
static uint32_t last_size(const edge_tensor *tensor) { return (uint32_t)tensor->sizes[tensor->rank - 1]; }

/* NULL where there is no room for it. */
static edge_layer *add_layer(search *own, uint8_t kind, uint32_t inputs, uint32_t outputs) {
  if (own->chain->count == EDGE_CHAIN_MAX) return NULL;
  edge_layer *layer = &own->chain->layers[own->chain->count++];
  *layer = (edge_layer){.call = own->call, .kind = kind, .inputs = inputs, .outputs = outputs};
  return layer;
}

/* The weight behind the second factor of a product: a constant [depth, rows], or the turned form of one. */
static const edge_tensor *find_factor(const search *own, const edge_tensor *factor, bool *transposed) {
  const edge_tensor *name = NULL;
  *transposed = factor->constant;
  if (factor->constant) return factor;
  const edge_call *call = edge_instruction(own->model, find_writer(own->model, factor, own->index, &name));
  /* Of rank 2: it is either turned, or left as it was, which nobody writes. */
  if (name == NULL || !is_named(call->op->name, 'a', "permute_copy") || call->args[1]->as.integers[0] % 2 == 0) return NULL;
  return edge_tensor_at(call, 0);
}

static bool is_one(const edge_value *value) {
  return value->kind == EDGE_INT ? value->as.integer == 1 : value->kind == EDGE_DOUBLE && value->as.real == 1.0;
}

static edge_status add_dense(search *own, const form *at) {
  const edge_call *call = own->call;
  const edge_tensor *x = edge_tensor_at(call, at->x), *weight = edge_tensor_at(call, at->weight), *bias = NULL;
  bool transposed = false;
  if (at == &forms[TERNARY_LINEAR] && edge_bool_at(call, 7)) return refuse(own, "bitlinear_compat");
  if (at == &forms[ADDMM] || at == &forms[MM]) weight = find_factor(own, weight, &transposed);
  if (at == &forms[ADDMM]) {
    bias = edge_tensor_at(call, 0);
    if (!is_one(call->args[3]) || !is_one(call->args[4]) || bias->bytes != own->read->bytes) weight = NULL;
  } else if (at->bias) {
    bias = edge_optional_tensor_at(call, at->bias);
  }
  if (weight == NULL || !weight->constant || (bias != NULL && !bias->constant)) return refuse(own, "computed weights");
  if (x->rank < 1 || elements(x) != last_size(x) || x->bytes == 0) return refuse(own, "several rows");
  edge_layer *layer = add_layer(own, EDGE_LAYER_DENSE, elements(x), elements(own->read));
  if (layer == NULL) return refuse(own, "too long a chain");
  layer->weight = weight;
  layer->bias = bias;
  layer->transposed = transposed;
  layer->bits = at->option ? (uint8_t)edge_int_at(call, at->option) : at == &forms[TERNARY_LINEAR];
  layer->rows = layer->outputs;
  layer->depth = layer->inputs;
  layer->activation = own->activation;
  if (at->norm_eps == 0 || !(edge_real_at(call, at->norm_eps) >= 0.0)) return EDGE_OK;
  layer = add_layer(own, EDGE_LAYER_NORM, elements(x), elements(x));
  if (layer == NULL) return refuse(own, "too long a chain");
  layer->eps = (float)edge_real_at(call, at->norm_eps);
  return EDGE_OK;
}

/* Two sizes of which one may stand for both; an empty list, a stride that is left out, leaves them as they are. */
static void read_pair(const edge_value *list, int32_t *first, int32_t *second) {
  if (list->kind != EDGE_INT_LIST || list->count == 0) return;
  *first = (int32_t)list->as.integers[0];
  *second = (int32_t)list->as.integers[list->count - 1];
}

/* Whether a mean is over height and width, and nothing else. */
static bool is_mean_of_planes(const search *own, const form *at, const edge_tensor *x, uint32_t planes) {
  const edge_value *dims = own->call->args[1];
  if (at != &forms[MEAN]) return elements(own->read) == planes;
  if (dims->kind != EDGE_INT_LIST || dims->count != 2) return false;
  uint32_t found = 0;
  for (uint32_t i = 0; i < 2; ++i) found |= 1u << ((uint32_t)(dims->as.integers[i] + x->rank) % x->rank);
  return found == 3u << (x->rank - 2);
}

/* Stride, padding and dilation from argument `at` on; of a pool the kernel comes first, and is the stride where that is
 * left out. Where a mean has no dilation it has a bool. */
static void read_window(const edge_call *call, uint32_t at, bool pool, edge_conv2d *window) {
  if (pool) {
    read_pair(call->args[at++], &window->kernel_h, &window->kernel_w);
    window->stride_h = window->kernel_h;
    window->stride_w = window->kernel_w;
  }
  read_pair(call->args[at], &window->stride_h, &window->stride_w);
  read_pair(call->args[at + 1], &window->padding_h, &window->padding_w);
  read_pair(call->args[at + 2], &window->dilation_h, &window->dilation_w);
}

/* A layer with a window over images of `channels` planes, with a kernel as large as they are and one output a plane. */
static edge_layer *add_window(search *own, uint8_t kind, int32_t channels, int32_t height, int32_t width) {
  const uint32_t planes = (uint32_t)channels;
  edge_layer *layer = add_layer(own, kind, planes * (uint32_t)height * (uint32_t)width, planes);
  if (layer == NULL) return NULL;
  layer->window = &own->chain->windows[own->chain->count - 1];
  *layer->window = (edge_conv2d){1, channels, height, width, channels, 1, 1, height, width, 1, 1, 0, 0, 1, 1, channels};
  return layer;
}

static int32_t window_count(int32_t size, int32_t kernel, int32_t stride, int32_t padding, int32_t dilation) {
  return (size + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
}

/* A pool over planes of these sizes, whose outputs are the call's. */
static edge_status add_pool(search *own, const form *at, int32_t channels, int32_t height, int32_t width) {
  const edge_call *call = own->call;
  const uint32_t option = at->pool ? at->pool : at->option;
  edge_layer *layer = add_window(own, at->pool ? EDGE_LAYER_MAX_POOL : at->kind, channels, height, width);
  if (layer == NULL) return refuse(own, "too long a chain");
  layer->outputs = elements(own->read);
  if (option) {
    layer->window->out_height = own->read->sizes[2];
    layer->window->out_width = own->read->sizes[3];
    read_window(call, option, true, layer->window);
  } else if (!is_mean_of_planes(own, at, edge_tensor_at(call, 0), (uint32_t)channels)) {
    return refuse(own, "other than a mean over height and width");
  }
  if (layer->kind == EDGE_LAYER_MAX_POOL) return EDGE_OK;
  /* Windows that all lie inside have as many values as the kernel. */
  if (at == &forms[AVG_POOL] && (layer->window->padding_h != 0 || layer->window->padding_w != 0 ||
                                 call->args[6]->kind != EDGE_NONE || edge_bool_at(call, 4))) {
    return refuse(own, "other than a mean of whole windows");
  }
  /* The largest of activated values is the activated largest, so that the layer before takes the function on. */
  return own->activation == EDGE_ACT_NONE ? EDGE_OK : refuse(own, "an activated mean");
}

static edge_status add_image_layer(search *own, const form *at) {
  const edge_call *call = own->call;
  const edge_tensor *x = edge_tensor_at(call, 0);
  if (x->rank != 4 || x->sizes[0] != 1) return refuse(own, "other than one image");
  if (at->weight == 0) return add_pool(own, at, x->sizes[1], x->sizes[2], x->sizes[3]);
  const edge_tensor *weight = edge_tensor_at(call, at->weight);
  const edge_tensor *bias = edge_optional_tensor_at(call, at->bias);
  if (!weight->constant || (bias != NULL && !bias->constant)) return refuse(own, "computed weights");
  if (at == &forms[CONVOLUTION] && edge_bool_at(call, 6)) return refuse(own, "a transposed convolution");
  edge_conv2d window = {1, x->sizes[1], x->sizes[2], x->sizes[3], weight->sizes[0], 1, 1, weight->sizes[2],
                        weight->sizes[3], 1, 1, 0, 0, 1, 1, (int32_t)edge_int_at(call, at->groups)};
  read_window(call, at->option, false, &window);
  window.out_height = window_count(window.height, window.kernel_h, window.stride_h, window.padding_h, window.dilation_h);
  window.out_width = window_count(window.width, window.kernel_w, window.stride_w, window.padding_w, window.dilation_w);
  if (at->pool) EDGE_TRY(add_pool(own, at, window.out_channels, window.out_height, window.out_width));
  edge_layer *layer = add_window(own, EDGE_LAYER_CONVOLUTION, window.channels, window.height, window.width);
  if (layer == NULL) return refuse(own, "too long a chain");
  *layer->window = window;
  layer->weight = weight;
  layer->bias = bias;
  layer->rows = (uint32_t)window.out_channels;
  layer->outputs = layer->rows * (uint32_t)window.out_height * (uint32_t)window.out_width;
  layer->depth = elements(weight) / layer->rows;
  layer->activation = own->activation;
  return EDGE_OK;
}

/* An activation that the layer to come ends in: at most one, and one whose slope is known from its value. */
static edge_status take_activation(search *own, int64_t activation) {
  const uint32_t known = 1u << EDGE_ACT_RELU | 1u << EDGE_ACT_RELU6 | 1u << EDGE_ACT_SIGMOID | 1u << EDGE_ACT_TANH;
  if (activation == EDGE_ACT_NONE) return EDGE_OK;
  if (own->activation != EDGE_ACT_NONE || !(known >> activation & 1u)) return refuse(own, "this activation function");
  own->activation = (uint8_t)activation;
  return EDGE_OK;
}

/* One instruction: puts what it is into the chain, and goes on to what it reads. */
static edge_status take_call(search *own) {
  const edge_call *call = own->call;
  const form *at = forms, *end = forms + sizeof forms / sizeof *forms;
  edge_chain *chain = own->chain;
  while (at < end && !is_named(call->op->name, at->namespace, at->name)) ++at;
  if (at == end) return refuse(own, "this operator");
  const edge_tensor *x = edge_tensor_at(call, at->x);
  if (x->dtype != EDGE_FLOAT32) return refuse(own, "other than float32");
  if (at->residual && call->args[at->residual]->kind != EDGE_NONE) return refuse(own, "a residual");
  if (at->kind == ACTIVATION) {
    if (at == &forms[HARDTANH] && (edge_real_at(call, 1) != 0.0 || edge_real_at(call, 2) != 6.0)) {
      return refuse(own, "other than ReLU6");
    }
    EDGE_TRY(take_activation(own, at->activation));
  } else if (at->kind == SOFTMAX) {
    if (chain->count > 0 || chain->softmax || own->activation || elements(x) != last_size(x)) {
      return refuse(own, "a softmax before the end");
    }
    chain->softmax = true;
  } else if (at->kind == COPY) {
    if (x->bytes != own->read->bytes) return refuse(own, "a part of a tensor");
  } else {
    if (at->activation) EDGE_TRY(take_activation(own, edge_int_at(call, at->activation)));
    EDGE_TRY(at->kind == EDGE_LAYER_DENSE ? add_dense(own, at) : add_image_layer(own, at));
    if (at->weight) {
      own->activation = EDGE_ACT_NONE;
      ++chain->weighted;
      chain->body = own->index; /* what comes before the first weights belongs to the body */
      chain->entry = x;
      chain->found = chain->count;
    }
  }
  own->read = x;
  return EDGE_OK;
}

static edge_status search_back(search *own, uint32_t wanted) {
  edge_chain *chain = own->chain;
  own->index = (uint32_t)edge_instruction_count(own->model);
  while (chain->weighted < wanted) {
    const uint32_t index = find_writer(own->model, own->read, own->index, &own->read);
    if (index == own->index) break;
    own->index = index;
    own->call = edge_instruction(own->model, index);
    if (own->read == NULL) return refuse(own, "a part of a tensor");
    EDGE_TRY(take_call(own));
  }
  chain->count = chain->found;
  if (chain->weighted == wanted || (wanted == EDGE_LEARN_ALL && chain->weighted > 0)) return EDGE_OK;
  return edge_set_error(own->error, EDGE_BAD_ARGUMENT, "%lu layers to learn: the program has %lu",
                        (unsigned long)wanted, (unsigned long)chain->weighted);
}

edge_status edge_find_chain(const edge_model *model, const edge_learn_plan *plan, edge_chain *chain,
                            edge_error *error) {
  const edge_tensor *y = edge_output(model, 0);
  memset(chain, 0, sizeof *chain);
  memset(error, 0, sizeof *error);
  if (!(plan->learning_rate > 0.0f) || !(plan->learning_rate < INFINITY) || plan->layers == 0 ||
      plan->loss > EDGE_LOSS_SQUARED || plan->classes > EDGE_LEARN_MAX_CLASSES) {
    return edge_set_error(error, EDGE_BAD_ARGUMENT, "learning: the plan's rate, layers, loss or classes are out of range");
  }
  if (edge_output_count(model) != 1 || y->dtype != EDGE_FLOAT32 || y->rank < 1 || elements(y) != last_size(y) ||
      y->bytes == 0) {
    return edge_set_error(error, EDGE_UNSUPPORTED, "learning needs a program with one output, a row of float32");
  }
  search own = {.model = model, .chain = chain, .error = error, .read = y};
  EDGE_TRY(search_back(&own, plan->layers));
  edge_layer *last = &chain->layers[0]; /* they are still in reverse */
  if (plan->loss == EDGE_LOSS_SQUARED ? chain->softmax : last->activation != EDGE_ACT_NONE) {
    return edge_set_error(error, EDGE_UNSUPPORTED, "%s: its activation function does not go with the loss",
                          last->call->op->name);
  }
  if (plan->classes != 0 && plan->classes != last->outputs) {
    if (plan->classes < last->outputs || last->kind != EDGE_LAYER_DENSE) {
      return edge_set_error(error, EDGE_BAD_ARGUMENT, "%lu classes: the program has %lu%s",
                            (unsigned long)plan->classes, (unsigned long)last->outputs,
                            last->kind == EDGE_LAYER_DENSE ? "" : ", and no dense layer at its end to add to");
    }
    last->outputs = last->rows = plan->classes;
  }
  for (uint32_t i = 0, j = chain->count - 1; i < j; ++i, --j) {
    const edge_layer layer = chain->layers[i];
    chain->layers[i] = chain->layers[j];
    chain->layers[j] = layer;
  }
  return EDGE_OK;
}
