/* What a learner holds: learner.c and learned.c. */
#ifndef EDGE_LEARNER_H
#define EDGE_LEARNER_H

#include "learn/chain.h"

/* At the start of the caller's block; behind it its layers, their windows, the weights, the layers' outputs, a plane. */
struct edge_learner {
  edge_model *model;
  edge_learn_plan plan; /* with the layers and classes that it came to */
  edge_layer *layers;
  const edge_tensor *entry; /* what the body leaves for the tail */
  float *x;                 /* the same, with the channels first */
  float *weights;
  float *plane;
  uint32_t count;      /* layers, those without weights included */
  uint32_t body;       /* instructions that run before */
  uint32_t parameters; /* floats of all weights */
  uint32_t samples;
  bool softmax; /* of predictions */
};

#endif
