/* A chain of matrix products on ggml, for layers.py: float32 in and out, weights of the type WEIGHTS.
 *
 * ggml quantizes the activations of each product itself. Activations take turns in two buffers, as an allocator of
 * ggml's would have it, so that only the weights stream. */

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "ggml.h"
#if __has_include("ggml-cpu.h") /* ggml.h itself had these until November 2024 */
#include "ggml-cpu.h"
#endif

struct chain {
    struct ggml_context *context;
    struct ggml_cgraph *graph;
    struct ggml_threadpool *pool;
    struct ggml_cplan plan;
    struct ggml_tensor *first, *last;
    void **buffers;
    int used;
};

static void *take(struct chain *chain, size_t bytes) {
    void *buffer = NULL;
    /* ggml's own buffers are aligned so; a kernel may read past the end of its data. */
    if (posix_memalign(&buffer, 64, bytes + 256) != 0) {
        return NULL;
    }
    memset(buffer, 0, bytes + 256);
    chain->buffers[chain->used++] = buffer;
    return buffer;
}

void chain_close(struct chain *chain) {
    if (chain == NULL) {
        return;
    }
    if (chain->pool != NULL) {
        ggml_threadpool_free(chain->pool);
    }
    if (chain->context != NULL) {
        ggml_free(chain->context);
    }
    for (int i = 0; i < chain->used; i++) {
        free(chain->buffers[i]);
    }
    free(chain->buffers);
    free(chain);
}

/* How many inputs a layer's must be a multiple of. */
int64_t chain_multiple(void) {
    int64_t block = ggml_blck_size(WEIGHTS);
    return block > 1 ? block : 128; /* I2_S tells 1, and its kernels go by 128 */
}

/* `weights`: of each layer, [widths[i + 1], widths[i]], ternary times a scale. NULL where memory is short. */
struct chain *chain_open(int layers, const int64_t *widths, int64_t rows, const float *const *weights, int threads) {
    struct chain *chain = calloc(1, sizeof *chain);
    if (chain == NULL) {
        return NULL;
    }
    chain->buffers = calloc((size_t)layers + 3, sizeof *chain->buffers);
    size_t tensors = 2 * (size_t)layers + 1;
    chain->context = ggml_init((struct ggml_init_params){
        .mem_size = tensors * ggml_tensor_overhead() + ggml_graph_overhead_custom(tensors, false),
        .no_alloc = true,
    });
    if (chain->buffers == NULL || chain->context == NULL) {
        chain_close(chain);
        return NULL;
    }
    int64_t widest = 0;
    for (int i = 0; i <= layers; i++) {
        widest = widths[i] > widest ? widths[i] : widest;
    }
    void *turns[2];
    for (int i = 0; i < 2; i++) {
        turns[i] = take(chain, (size_t)(rows * widest) * sizeof(float));
        if (turns[i] == NULL) {
            chain_close(chain);
            return NULL;
        }
    }
    chain->first = chain->last = ggml_new_tensor_2d(chain->context, GGML_TYPE_F32, widths[0], rows);
    chain->first->data = turns[0];
    for (int i = 0; i < layers; i++) {
        struct ggml_tensor *weight = ggml_new_tensor_2d(chain->context, WEIGHTS, widths[i], widths[i + 1]);
        weight->data = take(chain, ggml_nbytes(weight));
        if (weight->data == NULL) {
            chain_close(chain);
            return NULL;
        }
        ggml_quantize_chunk(WEIGHTS, weights[i], weight->data, 0, widths[i + 1], widths[i], NULL);
        chain->last = ggml_mul_mat(chain->context, weight, chain->last);
        chain->last->data = turns[(i + 1) % 2];
    }
    chain->graph = ggml_new_graph_custom(chain->context, tensors, false);
    ggml_build_forward_expand(chain->graph, chain->last);
    struct ggml_threadpool_params params = ggml_threadpool_params_default(threads);
    params.poll = 1; /* its waiting threads spin for a few ms, no longer: the other engines have their turn */
    chain->pool = ggml_threadpool_new(&params);
    chain->plan = ggml_graph_plan(chain->graph, threads, chain->pool);
    if (chain->plan.work_size != 0) {
        chain->plan.work_data = take(chain, chain->plan.work_size);
    }
    if (chain->pool == NULL || (chain->plan.work_size != 0 && chain->plan.work_data == NULL)) {
        chain_close(chain);
        return NULL;
    }
    return chain;
}

/* 0, or ggml's status. */
int chain_run(struct chain *chain, const float *in, float *out) {
    memcpy(chain->first->data, in, ggml_nbytes(chain->first));
    int status = (int)ggml_graph_compute(chain->graph, &chain->plan);
    memcpy(out, chain->last->data, ggml_nbytes(chain->last));
    return status;
}
