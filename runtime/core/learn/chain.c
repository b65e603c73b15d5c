/* Recognises the trainable tail in a program's instructions: chain.h says what fits. */
#include "learn/chain.h"

#include <string.h>

#include "error.h"
#include "kernels/math_f32.h"
#include "ops/edge_args.h"

/* What else than a layer an instruction may be. */
enum { ACTIVATION = 16, COPY, SOFTMAX };

/* Where an operator has what; 0 where it has no such argument (but `x`, which may be the first). */
typedef struct form {
  const char *name; /* without ".out" */
  uint8_t kind, x, weight, bias, residual, activation, bits, norm_eps, stride, groups;
} form;

static const form forms[] = {
    {"edge::ternary_linear", EDGE_LAYER_DENSE, 0, 1, 3, 4, 6, 0, 5, 0, 0},
    {"edge::int_linear", EDGE_LAYER_DENSE, 0, 1, 3, 4, 7, 5, 6, 0, 0},
    {"edge::linear", EDGE_LAYER_DENSE, 0, 1, 2, 3, 4, 0, 0, 0, 0},
    {"aten::linear", EDGE_LAYER_DENSE, 0, 1, 2, 0, 0, 0, 0, 0, 0},
    {"aten::addmm", EDGE_LAYER_DENSE, 1, 2, 0, 0, 0, 0, 0, 0, 0},
    {"aten::mm", EDGE_LAYER_DENSE, 0, 1, 0, 0, 0, 0, 0, 0, 0},
    {"edge::conv2d", EDGE_LAYER_CONVOLUTION, 0, 1, 2, 3, 8, 0, 0, 4, 7},
    {"aten::convolution", EDGE_LAYER_CONVOLUTION, 0, 1, 2, 0, 0, 0, 0, 3, 8},
    {"edge::max_pool2d", EDGE_LAYER_MAX_POOL, .stride = 1},
    {"aten::max_pool2d_with_indices", EDGE_LAYER_MAX_POOL, .stride = 1},
    {"aten::avg_pool2d", EDGE_LAYER_MEAN_POOL, .stride = 1},
    {"aten::_adaptive_avg_pool2d", EDGE_LAYER_MEAN_POOL},
    {"aten::mean", EDGE_LAYER_MEAN_POOL},
    {"aten::relu", ACTIVATION, .activation = EDGE_ACT_RELU},
    {"aten::hardtanh", ACTIVATION, .activation = EDGE_ACT_RELU6},
    {"aten::sigmoid", ACTIVATION, .activation = EDGE_ACT_SIGMOID},
    {"aten::tanh", ACTIVATION, .activation = EDGE_ACT_TANH},
    {"aten::view_copy", COPY},
    {"aten::squeeze_copy", COPY},
    {"aten::unsqueeze_copy", COPY},
    {"aten::clone", COPY},
    {"aten::alias_copy", COPY},
    {"aten::detach_copy", COPY},
    {"dim_order_ops::_clone_dim_order", COPY},
    {"aten::_softmax", SOFTMAX},
};
/* Those that want to be looked at more closely. */
enum { TERNARY_LINEAR = 0, ADDMM = 4, MM = 5, ATEN_CONVOLUTION = 7, MEAN = 12, HARDTANH = 14 };

static const form *form_of(const char *name) {
  for (size_t i = 0; i < sizeof forms / sizeof *forms; ++i) {
    const size_t length = strlen(forms[i].name);
    if (strncmp(name, forms[i].name, length) == 0 && name[length] == '.') return &forms[i];
  }
  return NULL;
}

static bool overlaps(const edge_tensor *written, const edge_tensor *read) {
  const uintptr_t begin = (uintptr_t)written->data, first = (uintptr_t)read->data;
  return begin < first + read->bytes && first < begin + written->bytes;
}

/* The instruction before `end` that wrote a tensor last, and whether it wrote the whole of it and no more; `end` where
 * none did. Names do not matter: views are other names of the same memory. */
static uint32_t find_writer(const edge_model *model, const edge_tensor *read, uint32_t end, bool *whole) {
  *whole = false;
  for (uint32_t i = end; i-- > 0;) {
    const edge_call *call = edge_instruction(model, i);
    for (uint32_t j = edge_first_output(call->op); j < call->arg_count; ++j) {
      const edge_value *value = call->args[j];
      const bool list = value->kind == EDGE_TENSOR_LIST;
      for (uint32_t k = 0; k < (list ? value->count : 1); ++k) {
        const edge_tensor *written = list ? &value->as.tensors[k]->as.tensor : &value->as.tensor;
        if (!overlaps(written, read)) continue;
        *whole = !list && written->data == read->data && written->bytes == read->bytes;
        return i;
      }
    }
  }
  return end;
}

static bool is_input(const edge_model *model, const edge_tensor *tensor) {
  for (size_t i = 0; i < edge_input_count(model); ++i) {
    if (edge_input((edge_model *)model, i)->data == tensor->data) return true;
  }
  return false;
}

/* A search from the output back; layers are found in reverse. */
typedef struct search {
  const edge_model *model;
  edge_chain *chain;
  edge_error *error;
  const edge_tensor *read;  /* of which the writer is wanted */
  const edge_call *call;    /* that writer */
  uint32_t index;
  uint8_t activation;       /* that follows the layer to come */
} search;

/* Names what stands in the way, and what can be had without it. */
static edge_status refuse(const search *own, const char *what) {
  return edge_set_error(own->error, EDGE_UNSUPPORTED,
                        "instruction %lu, %s: learning does not reach through %s; layers that can learn behind it: %lu",
                        (unsigned long)own->index, own->call->op->name, what, (unsigned long)own->chain->weighted);
}

static edge_status add_layer(search *own, uint8_t kind, uint64_t inputs, uint64_t outputs, edge_layer **added) {
  edge_chain *chain = own->chain;
  if (chain->count == EDGE_CHAIN_MAX) return refuse(own, "more layers than the core learns");
  edge_layer *layer = &chain->layers[chain->count];
  *layer = (edge_layer){.call = own->call, .kind = kind, .inputs = (uint32_t)inputs, .outputs = (uint32_t)outputs};
  if (kind == EDGE_LAYER_CONVOLUTION || kind >= EDGE_LAYER_MAX_POOL) layer->window = &chain->windows[chain->count];
  layer->activation = own->activation;
  own->activation = EDGE_ACT_NONE;
  ++chain->count;
  *added = layer;
  return EDGE_OK;
}

/* An activation that the layer to come ends in: at most one, and one whose slope is known from its value. */
static edge_status take_activation(search *own, int64_t activation) {
  if (activation == EDGE_ACT_NONE) return EDGE_OK;
  const bool known = activation == EDGE_ACT_RELU || activation == EDGE_ACT_RELU6 || activation == EDGE_ACT_SIGMOID ||
                     activation == EDGE_ACT_TANH;
  if (!known) return refuse(own, "its activation function, which is not ReLU, ReLU6, sigmoid or tanh");
  if (own->activation != EDGE_ACT_NONE) return refuse(own, "a second activation function");
  own->activation = (uint8_t)activation;
  return EDGE_OK;
}

/* The weight behind the second factor of a product: a constant [depth, rows], or a turned one [rows, depth]. */
static const edge_tensor *find_factor(const search *own, const edge_tensor *factor, bool *transposed) {
  bool whole;
  *transposed = true;
  if (factor->constant) return factor;
  const uint32_t index = find_writer(own->model, factor, own->index, &whole);
  if (index == own->index || !whole) return NULL;
  const edge_call *call = edge_instruction(own->model, index);
  if (strcmp(call->op->name, "aten::permute_copy.out") != 0 &&
      strcmp(call->op->name, "aten::transpose_copy.int_out") != 0) {
    return NULL;
  }
  *transposed = false;
  const edge_tensor *turned = &call->args[0]->as.tensor;
  /* Of rank 2, as its result is; it may have been left as it was, which shows where it is not square. */
  const bool same = call->args[1]->kind == EDGE_INT_LIST ? call->args[1]->as.integers[0] % 2 == 0
                                                         : (call->args[1]->as.integer - call->args[2]->as.integer) % 2 == 0;
  return turned->constant && turned->rank == 2 && !same ? turned : NULL;
}

static const edge_tensor *bias_of(const edge_call *call, const form *at) {
  return at->bias ? edge_optional_tensor_at(call, at->bias) : NULL;
}

static edge_status add_dense(search *own, const form *at) {
  const edge_call *call = own->call;
  const edge_tensor *x = edge_tensor_at(call, at->x), *weight = edge_tensor_at(call, at->weight);
  bool transposed = false;
  if (at == &forms[TERNARY_LINEAR] && edge_bool_at(call, 7)) return refuse(own, "a layer with bitlinear_compat");
  if (at == &forms[ADDMM] || at == &forms[MM]) weight = find_factor(own, weight, &transposed);
  if (weight == NULL || !weight->constant) return refuse(own, "a product with what is no weight");
  if (at == &forms[ADDMM]) {
    const edge_tensor *bias = edge_tensor_at(call, 0);
    const bool plain = edge_real_at(call, 3) == 1.0 && edge_real_at(call, 4) == 1.0;
    if (!bias->constant || edge_elements(bias) != edge_elements(own->read) || !plain) {
      return refuse(own, "a product with more than a bias");
    }
  }
  const int64_t inputs = edge_elements(x), outputs = edge_elements(own->read);
  if (x->rank < 1 || inputs != x->sizes[x->rank - 1] || inputs == 0) return refuse(own, "a layer of several rows");
  edge_layer *layer;
  EDGE_TRY(add_layer(own, EDGE_LAYER_DENSE, (uint64_t)inputs, (uint64_t)outputs, &layer));
  layer->weight = weight;
  layer->bias = at == &forms[ADDMM] ? edge_tensor_at(call, 0) : bias_of(call, at);
  layer->transposed = transposed;
  layer->bits = at->bits ? (uint8_t)edge_int_at(call, at->bits) : at == &forms[TERNARY_LINEAR] ? 1 : 0;
  layer->rows = layer->outputs;
  layer->depth = layer->inputs;
  ++own->chain->weighted;
  if (at->norm_eps && edge_real_at(call, at->norm_eps) >= 0.0) {
    EDGE_TRY(add_layer(own, EDGE_LAYER_NORM, (uint64_t)inputs, (uint64_t)inputs, &layer));
    layer->eps = (float)edge_real_at(call, at->norm_eps);
  }
  return EDGE_OK;
}

static edge_status add_convolution(search *own, const form *at) {
  edge_call call = *own->call; /* which `edge_take_convolution` may write an error to */
  edge_conv2d window;
  const edge_tensor *x = edge_tensor_at(&call, at->x), *weight = edge_tensor_at(&call, at->weight);
  call.error = own->error;
  EDGE_TRY(edge_take_convolution(&call, x, weight, at->stride, at->groups, &window));
  if (!weight->constant) return refuse(own, "a convolution with what is no weight");
  if (window.batch != 1) return refuse(own, "a layer of several samples");
  edge_layer *layer;
  EDGE_TRY(add_layer(own, EDGE_LAYER_CONVOLUTION, (uint64_t)edge_elements(x), (uint64_t)edge_elements(own->read),
                     &layer));
  *layer->window = window;
  layer->weight = weight;
  layer->bias = bias_of(own->call, at);
  layer->rows = (uint32_t)window.out_channels;
  layer->depth = (uint32_t)(edge_elements(weight) / window.out_channels);
  ++own->chain->weighted;
  return EDGE_OK;
}

static void read_pair(const edge_value *list, int32_t *first, int32_t *second) {
  if (list->count == 0) return; /* a stride that is left out is the kernel */
  *first = (int32_t)list->as.integers[0];
  *second = (int32_t)list->as.integers[list->count - 1];
}

/* Whether aten::mean runs over height and width, and nothing else. */
static bool is_mean_of_planes(const edge_call *call, uint32_t rank) {
  const edge_value *dims = call->args[1];
  uint32_t found = 0;
  if (dims->kind != EDGE_INT_LIST || dims->count != 2) return false;
  for (uint32_t i = 0; i < 2; ++i) {
    const int64_t dim = dims->as.integers[i] < 0 ? dims->as.integers[i] + rank : dims->as.integers[i];
    if (dim == rank - 1) found |= 1u;
    if (dim == rank - 2) found |= 2u;
  }
  return found == 3u;
}

/* Whether every window of a pool lies inside the image: its mean is then over as many values as the kernel has. */
static bool is_whole(const edge_conv2d *window) {
  return window->padding_h == 0 && window->padding_w == 0 &&
         (window->out_height - 1) * (int64_t)window->stride_h + window->kernel_h <= window->height &&
         (window->out_width - 1) * (int64_t)window->stride_w + window->kernel_w <= window->width;
}

static edge_status add_pool(search *own, const form *at) {
  const edge_call *call = own->call;
  const edge_tensor *x = edge_tensor_at(call, 0), *y = own->read;
  const bool mean = at->kind == EDGE_LAYER_MEAN_POOL;
  if (x->rank != 3 && x->rank != 4) return refuse(own, "a mean over other than images");
  const int32_t height = x->sizes[x->rank - 2], width = x->sizes[x->rank - 1];
  const int64_t planes = edge_product(x->sizes, 0, x->rank - 2u);
  edge_conv2d window = {.batch = 1, .channels = (int32_t)planes, .height = height, .width = width,
                        .out_channels = (int32_t)planes, .out_height = 1, .out_width = 1,
                        .kernel_h = height, .kernel_w = width, .stride_h = 1, .stride_w = 1,
                        .dilation_h = 1, .dilation_w = 1, .groups = (int32_t)planes};
  if (at->stride) {
    window.out_height = y->sizes[y->rank - 2];
    window.out_width = y->sizes[y->rank - 1];
    read_pair(call->args[1], &window.kernel_h, &window.kernel_w);
    window.stride_h = window.kernel_h;
    window.stride_w = window.kernel_w;
    read_pair(call->args[2], &window.stride_h, &window.stride_w);
    read_pair(call->args[3], &window.padding_h, &window.padding_w);
    if (!mean) read_pair(call->args[4], &window.dilation_h, &window.dilation_w);
    if (mean && (!is_whole(&window) || call->args[6]->kind != EDGE_NONE)) return refuse(own, "padded means");
  } else if (at == &forms[MEAN] ? !is_mean_of_planes(call, x->rank) : edge_elements(y) != planes) {
    return refuse(own, "a mean over other than height and width");
  }
  edge_layer *layer;
  EDGE_TRY(add_layer(own, at->kind, (uint64_t)edge_elements(x), (uint64_t)edge_elements(y), &layer));
  *layer->window = window;
  return EDGE_OK;
}

/* One instruction: puts what it is into the chain, and goes on to what it reads. */
static edge_status take_call(search *own) {
  const edge_call *call = own->call;
  const form *at = form_of(call->op->name);
  if (at == NULL) return refuse(own, "this operator");
  if (at->residual && call->args[at->residual]->kind != EDGE_NONE) return refuse(own, "a residual");
  const edge_tensor *x = edge_tensor_at(call, at->x);
  if (x->dtype != EDGE_FLOAT32) return refuse(own, "other than float32");
  if (at->kind <= EDGE_LAYER_CONVOLUTION && at->activation) {
    EDGE_TRY(take_activation(own, edge_int_at(call, at->activation)));
  }
  switch (at->kind) {
    case EDGE_LAYER_DENSE: EDGE_TRY(add_dense(own, at)); break;
    case EDGE_LAYER_CONVOLUTION:
      if (at == &forms[ATEN_CONVOLUTION] && edge_bool_at(call, 6)) return refuse(own, "a transposed convolution");
      EDGE_TRY(add_convolution(own, at));
      break;
    case EDGE_LAYER_MAX_POOL:
    case EDGE_LAYER_MEAN_POOL: EDGE_TRY(add_pool(own, at)); break;
    case ACTIVATION:
      if (at == &forms[HARDTANH] && (edge_real_at(call, 1) != 0.0 || edge_real_at(call, 2) != 6.0)) {
        return refuse(own, "a clamp other than ReLU6");
      }
      EDGE_TRY(take_activation(own, at->activation));
      break;
    case SOFTMAX:
      if (own->chain->count > 0 || own->chain->softmax || own->activation != EDGE_ACT_NONE ||
          edge_elements(x) != x->sizes[x->rank - 1]) {
        return refuse(own, "a softmax before the end");
      }
      own->chain->softmax = true;
      break;
    default: /* a copy, of the same values in the same order */
      if (edge_elements(x) != edge_elements(own->read)) return refuse(own, "a part of a tensor");
  }
  own->read = x;
  return EDGE_OK;
}

static edge_status search_back(search *own, uint32_t wanted) {
  const edge_model *model = own->model;
  edge_chain *chain = own->chain;
  uint32_t end = (uint32_t)edge_instruction_count(model);
  while (chain->weighted < wanted) {
    bool whole;
    own->index = find_writer(model, own->read, end, &whole);
    if (own->index == end) break;
    end = own->index;
    own->call = edge_instruction(model, own->index);
    if (!whole) return refuse(own, "a part of a tensor");
    const uint32_t before = chain->weighted;
    EDGE_TRY(take_call(own));
    if (chain->weighted == before) continue;
    chain->body = own->index; /* as long as nothing with weights comes before it */
    chain->entry = own->read;
  }
  if (chain->weighted == wanted) return EDGE_OK;
  if (wanted == EDGE_LEARN_ALL && chain->weighted > 0 && is_input(model, own->read)) return EDGE_OK;
  return edge_set_error(own->error, EDGE_BAD_ARGUMENT, "the program has %lu layers that can learn, not %ld",
                        (unsigned long)chain->weighted, wanted == EDGE_LEARN_ALL ? -1L : (long)wanted);
}

static void turn_round(edge_chain *chain) {
  /* What comes before the first weights belongs to the body. */
  while (chain->layers[chain->count - 1].kind >= EDGE_LAYER_MAX_POOL) --chain->count;
  for (uint32_t i = 0, j = chain->count - 1; i < j; ++i, --j) {
    const edge_layer layer = chain->layers[i];
    chain->layers[i] = chain->layers[j];
    chain->layers[j] = layer;
  }
}

edge_status edge_find_chain(const edge_model *model, const edge_learn_plan *plan, edge_chain *chain,
                            edge_error *error) {
  const edge_tensor *y = edge_output(model, 0);
  memset(chain, 0, sizeof *chain);
  memset(error, 0, sizeof *error);
  if (!(plan->learning_rate > 0.0f) || !(plan->learning_rate < INFINITY)) {
    return edge_set_error(error, EDGE_BAD_ARGUMENT, "the learning rate must be above 0 and finite");
  }
  if (plan->layers == 0 || plan->loss > EDGE_LOSS_SQUARED || plan->classes > EDGE_LEARN_MAX_CLASSES) {
    return edge_set_error(error, EDGE_BAD_ARGUMENT, "expected at least 1 layer, at most %d classes, and loss 0 or 1",
                          EDGE_LEARN_MAX_CLASSES);
  }
  if (edge_output_count(model) != 1 || y->dtype != EDGE_FLOAT32 || y->rank < 1 || y->bytes == 0 ||
      edge_elements(y) != y->sizes[y->rank - 1]) {
    return edge_set_error(error, EDGE_UNSUPPORTED, "learning needs a program with one output, a row of float32");
  }
  search own = {.model = model, .chain = chain, .error = error, .read = y};
  EDGE_TRY(search_back(&own, plan->layers));
  const edge_layer found = chain->layers[0]; /* the last layer, still in front */
  if (plan->loss == EDGE_LOSS_CROSS_ENTROPY ? found.activation != EDGE_ACT_NONE : chain->softmax) {
    return edge_set_error(error, EDGE_UNSUPPORTED, "%s: the program's last layer does not end as this loss wants it: "
                          "cross-entropy takes logits or softmax, squared all but softmax", found.call->op->name);
  }
  turn_round(chain);
  edge_layer *last = &chain->layers[chain->count - 1];
  if (plan->classes == 0 || plan->classes == last->outputs) return EDGE_OK;
  if (plan->classes < last->outputs || last->kind != EDGE_LAYER_DENSE) {
    return edge_set_error(error, EDGE_BAD_ARGUMENT, "the program has %lu classes%s, not %lu",
                          (unsigned long)last->outputs,
                          last->kind == EDGE_LAYER_DENSE ? " and can learn more" : " and cannot learn new ones",
                          (unsigned long)plan->classes);
  }
  last->outputs = last->rows = plan->classes;
  return EDGE_OK;
}
