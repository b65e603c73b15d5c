/* The trainable tail of a program: a chain of layers, each of which takes the one before it and constants.
 *
 * It is recognised from the program's output back. A layer is one of
 *
 *   dense        edge::ternary_linear, edge::int_linear, edge::linear, aten::linear, aten::addmm, aten::mm, of one row
 *   convolution  edge::conv2d, aten::convolution (not transposed), of one sample
 *   norm         what edge::ternary_linear and edge::int_linear do to their row first, where norm_eps >= 0
 *   max pool     edge::max_pool2d, aten::max_pool2d_with_indices
 *   mean pool    aten::mean over height and width, aten::avg_pool2d without padding, aten::_adaptive_avg_pool2d to 1x1
 *
 * and ends in none, ReLU, ReLU6, sigmoid or tanh: as an argument, or as the instruction aten::relu, aten::hardtanh,
 * aten::sigmoid or aten::tanh. Views and copies change nothing; an aten::_softmax at the end belongs to the loss. The
 * tail begins at a layer with weights (or its norm); what comes before that is the body. Residuals, activations whose
 * slope does not follow from their value (GELU, SiLU), and all other operators end what can be learned.
 */
#ifndef EDGE_CHAIN_H
#define EDGE_CHAIN_H

#include "kernels/kernels.h"
#include "learn/learn.h"
#include "op.h"

enum { EDGE_CHAIN_MAX = 24 };

typedef enum edge_layer_kind {
  EDGE_LAYER_DENSE,
  EDGE_LAYER_CONVOLUTION,
  EDGE_LAYER_NORM,
  EDGE_LAYER_MAX_POOL,
  EDGE_LAYER_MEAN_POOL,
} edge_layer_kind;

typedef struct edge_layer {
  const edge_call *call;
  const edge_tensor *weight; /* in the program; NULL for layers without */
  const edge_tensor *bias;   /* likewise, or NULL */
  edge_conv2d *window;       /* of convolutions and pools; NULL for others */
  float *weights;            /* trainable: [rows, depth], then [rows] biases */
  float *y;                  /* [outputs]; on the way back their gradients */
  uint32_t inputs, outputs;  /* values of x and y */
  uint32_t rows, depth;      /* of the weights; 0 for layers without */
  float eps;                 /* of a norm */
  float mean, rstd;          /* of a norm's last x */
  uint8_t kind;              /* edge_layer_kind */
  uint8_t activation;        /* EDGE_ACT_* */
  uint8_t bits;              /* of the program's weight: 0 float32, 1 ternary, 2, 4 or 8 */
  bool transposed;           /* the program's weight is [depth, rows] */
} edge_layer;

typedef struct edge_chain {
  edge_layer layers[EDGE_CHAIN_MAX]; /* from the entry to the output; pointers into memory are not set */
  edge_conv2d windows[EDGE_CHAIN_MAX];
  uint32_t count;
  uint32_t weighted;        /* layers with weights */
  uint32_t found;           /* layers up to the last with weights that was found */
  uint32_t body;            /* instructions before the first */
  const edge_tensor *entry; /* what the first layer takes */
  bool softmax;             /* the program's own, at its end */
} edge_chain;

/* Recognises the tail that a plan asks for; the last layer has as many outputs as the plan has classes. */
edge_status edge_find_chain(const edge_model *model, const edge_learn_plan *plan, edge_chain *chain,
                            edge_error *error);

/* Writes layer->weights from the program's: rows that the program does not have are the mean of those that it has. */
void edge_initial_weights(const edge_layer *layer);

/* One layer's way forward, and back: `rate` times the gradient goes off the weights, and the gradient of x takes the
 * place of x, unless `first`. `before` is the activation that x came from; `plane` is room for one plane of x. */
void edge_layer_forward(edge_layer *layer, float *x);
void edge_layer_back(const edge_layer *layer, float *x, bool first, int before, float rate, float *plane);

/* What an activation function with the value y multiplies a gradient by. */
float edge_slope(float y, int activation);

#endif
