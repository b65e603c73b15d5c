/* edge::ternary_linear, edge::int_linear and their 1x1 convolution forms.
 *
 * All four are one computation over tokens: quantize a block of tokens to int8, multiply with the packed weights,
 * finish each accumulator (kernels/scalar/epilogue.h has the contract). A linear's token is the last dimension; a
 * convolution's is the channels of a pixel, which lie a plane apart: only the steps differ.
 *
 *   ternary_linear(x, packed, scales, bias?, residual?, norm_eps, activation, bitlinear_compat, out)
 *   int_linear(x, packed, scales, bias?, residual?, bits, norm_eps, activation, out)
 *   ternary_conv1x1(x, packed, scales, bias?, residual?, norm_eps, activation, out)
 *   int_conv1x1(x, packed, scales, bias?, residual?, bits, norm_eps, activation, out)
 */
#include "kernels/kernels.h"
#include "ops/edge_args.h"
#include "ops/ops.h"
#include "ops/weights.h"

#include <string.h>

enum { X, PACKED, SCALES, BIAS, RESIDUAL };

/* Where the options of each operator are; `bits` is 0 for the ternary ones, `compat` 0 for all but ternary_linear. */
typedef struct layout {
  uint32_t bits, norm_eps, activation, compat, out;
  bool conv;
} layout;

static const layout ternary_linear = {0, 5, 6, 7, 8, false};
static const layout int_linear = {5, 6, 7, 0, 8, false};
static const layout ternary_conv1x1 = {0, 5, 6, 0, 7, true};
static const layout int_conv1x1 = {5, 6, 7, 0, 8, true};

/* Tokens that are quantized before any is multiplied; bounds the temporary memory. A whole number of both blocks. One
 * block is enough where nothing is repacked and nobody shares the work: there memory is what counts. */
static size_t tokens_at_once(const edge_call *call, const edge_qd8_weights *kernel) {
#if defined(EDGE_BARE_METAL)
  (void)call, (void)kernel;
  return EDGE_TOKEN_BLOCK;
#else
  const bool one = kernel->packed_bytes == NULL && edge_thread_count(call->threads) == 1;
  return (size_t)EDGE_ROW_BLOCK * (one ? 1 : 10);
#endif
}
/* What a fast core does in a nanosecond; see edge_threads_for. */
#define MACS_A_NANOSECOND 150.0
#define CODES_A_NANOSECOND 2.5

static size_t padded_depth(size_t k) { return (k + EDGE_ROW_ALIGN - 1) / EDGE_ROW_ALIGN * EDGE_ROW_ALIGN; }

static const edge_qd8_weights *storage(const edge_kernels *kernels, int bits) {
  return bits == 2 ? &kernels->qd8_f32_qc2w : bits == 4 ? &kernels->qd8_f32_qc4w : &kernels->qd8_f32_qc8w;
}

/* Codes of so many tokens, and what is known of each; a multiple of 16. */
static uint64_t codes_bytes(size_t tokens, size_t k) {
  return tokens * (uint64_t)padded_depth(k) + (tokens * sizeof(edge_row) + 15) / 16 * 16;
}

/* What the weights take in the kernel's layout; 0 where it leaves them as they are, or to the scalar kernel. */
static size_t repacked_bytes(const edge_qd8_weights *kernel, size_t n, size_t k) {
  return kernel->packed_bytes != NULL ? kernel->packed_bytes(n, k) : 0;
}

static int bits_of(const edge_call *call, const layout *at) { return at->bits ? (int)edge_int_at(call, at->bits) : 2; }

static edge_status check(edge_call *call, const layout *at) {
  const edge_tensor *x, *packed;
  int64_t bits = 2;
  EDGE_TRY(edge_take_tensor(call, X, "x", EDGE_F32, &x));
  if (at->conv ? x->rank != 4 : x->rank < 1) {
    return edge_fail(call, EDGE_BAD_ARGUMENT, "x has %u dimensions, expected %s", (unsigned)x->rank,
                     at->conv ? "4 (NCHW)" : "at least 1");
  }
  if (at->bits) {
    EDGE_TRY(edge_take_int(call, at->bits, "bits", 2, 8, &bits));
    if (bits != 2 && bits != 4 && bits != 8) {
      return edge_fail(call, EDGE_UNSUPPORTED, "bits is %d, expected 2, 4 or 8", (int)bits);
    }
  }
  EDGE_TRY(edge_take_tensor(call, PACKED, "packed", EDGE_BIT(bits == 8 ? EDGE_INT8 : EDGE_UINT8), &packed));
  int layout = EDGE_LAYOUT_ROWS;
  EDGE_TRY(edge_take_layout(call, packed, at->bits == 0, &layout));
  const int32_t n = packed->sizes[0], k = x->sizes[at->conv ? 1 : x->rank - 1];
  /* So that no partial sum leaves int32, whatever codes the file holds: 128 * largest code * k < 2^31. */
  const int32_t deepest = bits == 2 ? 5592405 : bits == 4 ? 1118481 : 131071;
  if (k < 1 || k > deepest) {
    return edge_fail(call, EDGE_UNSUPPORTED, "%d values a token, expected 1 to %d", (int)k, (int)deepest);
  }
  const int32_t width = layout != EDGE_LAYOUT_ROWS ? (int32_t)edge_layout_row_bytes(layout, (size_t)k)
                                                   : (int32_t)(((int64_t)k * bits + 7) / 8);
  if (packed->sizes[1] != width) {
    return edge_fail(call, EDGE_BAD_ARGUMENT, "packed has %d bytes a row, expected %d for %d values of %d bits",
                     (int)packed->sizes[1], (int)width, (int)k, (int)bits);
  }
  EDGE_TRY(edge_take_scales(call, SCALES, n));
  EDGE_TRY(edge_take_bias(call, BIAS, n));
  int32_t sizes[EDGE_MAX_RANK];
  memcpy(sizes, x->sizes, x->rank * sizeof sizes[0]);
  sizes[at->conv ? 1 : x->rank - 1] = n;
  EDGE_TRY(edge_take_output(call, at->out, "out", EDGE_F32, sizes, x->rank));
  EDGE_TRY(edge_take_residual(call, RESIDUAL, sizes, x->rank));
  EDGE_TRY(edge_take_float(call, at->norm_eps, "norm_eps"));
  EDGE_TRY(edge_take_activation(call, at->activation));
  bool compat;
  if (at->compat) EDGE_TRY(edge_take_bool(call, at->compat, "bitlinear_compat", &compat));
  call->macs = (uint64_t)edge_elements(edge_tensor_at(call, at->out)) * (uint64_t)k;
  const edge_qd8_weights *kernel = storage(call->kernels, (int)bits);
  if (n > 0) {
    EDGE_TRY(edge_reserve_weights(call, packed, (size_t)n, (size_t)k, kernel->layout,
                                  repacked_bytes(kernel, (size_t)n, (size_t)k)));
  }
  const size_t tokens = smaller((size_t)edge_product(x->sizes, at->conv ? 2 : 0, x->rank - (at->conv ? 0u : 1u)),
                                tokens_at_once(call, kernel));
  return edge_reserve(call, codes_bytes(tokens, (size_t)k) +
                                (kernel->scratch_bytes != NULL ? kernel->scratch_bytes((size_t)n, (size_t)k) : 0));
}

static void pack(edge_call *call, const layout *at) {
  const edge_tensor *x = edge_tensor_at(call, X), *packed = edge_tensor_at(call, PACKED);
  const size_t n = (size_t)packed->sizes[0], k = (size_t)x->sizes[at->conv ? 1 : x->rank - 1];
  const edge_qd8_weights *kernel = storage(call->kernels, bits_of(call, at));
  const size_t repacked = repacked_bytes(kernel, n, k);
  const void *rows = edge_weight_rows(call, packed, n, k, repacked);
  if (repacked > 0) kernel->pack(n, k, rows, call->packed);
}

/* What the tasks of one run share. Tokens start k floats apart, or one where a convolution's channels come first; see
 * `quantize`. */
typedef struct job {
  const edge_kernels *kernels;
  const edge_qd8_weights *kernel;
  edge_qd8_gemm gemm; /* of all tokens at once: `rows` of them, codes and outputs of the first */
  const float *x;
  size_t step; /* floats from one value of a token to the next */
  float norm_eps;
  int8_t *codes;
  edge_row *row;
  size_t row_blocks, column_step; /* of the multiplication */
} job;

static void quantize(void *context, size_t block, size_t thread) {
  (void)thread;
  const job *work = context;
  const edge_qd8_gemm *gemm = &work->gemm;
  const size_t first = block * EDGE_TOKEN_BLOCK, count = smaller(gemm->rows - first, EDGE_TOKEN_BLOCK);
  int8_t *codes = work->codes + first * gemm->padded;
  if (work->step != 1) {
    work->kernels->f32_qd8_quantize_columns(count, gemm->k, work->x + first, work->step, work->norm_eps,
                                            gemm->epilogue.bitlinear_compat, gemm->padded, codes, work->row + first);
    return;
  }
  work->kernels->f32_qd8_quantize(count, gemm->k, work->x + first * gemm->k, work->norm_eps,
                                  gemm->epilogue.bitlinear_compat, gemm->padded, codes, work->row + first);
}

static void multiply(void *context, size_t task, size_t thread) {
  (void)thread;
  const job *work = context;
  edge_qd8_gemm gemm = work->gemm;
  const size_t first = task % work->row_blocks * EDGE_ROW_BLOCK, column = task / work->row_blocks * work->column_step;
  gemm.rows = smaller(gemm.rows - first, EDGE_ROW_BLOCK);
  gemm.codes = work->codes + first * gemm.padded;
  gemm.row = work->row + first;
  gemm.out.data += first * gemm.out.row_step;
  if (gemm.out.residual != NULL) gemm.out.residual += first * gemm.out.row_step;
  work->kernel->run(&gemm, column, smaller(column + work->column_step, gemm.n));
}

/* Splits the multiplication into blocks of rows and, where those are few, of columns, so that each thread gets some. */
static size_t split(job *work, size_t threads) {
  const size_t rows = work->gemm.rows, n = work->gemm.n, panels = blocks(n, EDGE_PANEL);
  work->row_blocks = blocks(rows, EDGE_ROW_BLOCK);
  const size_t columns = smaller(threads > 1 ? blocks(4 * threads, work->row_blocks) : 1, panels);
  work->column_step = blocks(panels, columns) * EDGE_PANEL;
  return work->row_blocks * blocks(n, work->column_step);
}

static edge_status run(edge_call *call, const layout *at) {
  const edge_tensor *x = edge_tensor_at(call, X), *packed = edge_tensor_at(call, PACKED);
  const edge_tensor *bias = edge_optional_tensor_at(call, BIAS), *residual = edge_optional_tensor_at(call, RESIDUAL);
  const int bits = bits_of(call, at);
  const size_t n = (size_t)packed->sizes[0], k = (size_t)x->sizes[at->conv ? 1 : x->rank - 1];
  const edge_tensor *result = edge_tensor_at(call, at->out);
  /* A linear is one "sample" whose tokens follow each other; a convolution's samples have a plane of tokens each. */
  const size_t plane = at->conv ? (size_t)edge_product(x->sizes, 2, 4) : 1;
  const size_t step = at->conv && !x->channels_last ? plane : 1, x_row = step == 1 ? k : 1;
  const size_t samples = at->conv ? (size_t)x->sizes[0] : 1;
  const size_t tokens = at->conv ? plane : (size_t)edge_elements(x) / k;
  if (n == 0 || tokens == 0) return EDGE_OK;

  const edge_qd8_weights *kernel = storage(call->kernels, bits);
  if (EDGE_SCALAR_WHERE_UNREAD &&
      !edge_kernel_reads(call, packed, kernel->layout, kernel->packed_bytes != NULL, repacked_bytes(kernel, n, k))) {
    kernel = storage(&edge_kernels_scalar, bits);
  }
  job work = {
      .kernels = call->kernels,
      .kernel = kernel,
      .gemm =
          {
              .n = n,
              .k = k,
              .padded = padded_depth(k),
              .weight = call->packed != NULL ? call->packed : packed->data,
              .zero_point = at->bits == 0 ? 1 : bits == 2 ? 2 : 8,
              .epilogue = edge_read_epilogue(call, SCALES, bias, at->activation,
                                             at->compat && edge_bool_at(call, at->compat)),
              .out = {.row_step = at->conv && !result->channels_last ? 1 : n,
                      .step = at->conv && !result->channels_last ? plane : 1},
          },
      .step = step,
      .norm_eps = edge_float_at(call, at->norm_eps),
      .codes = call->scratch,
  };
  const size_t at_once = smaller(tokens, tokens_at_once(call, storage(call->kernels, bits)));
  work.row = (edge_row *)(void *)(work.codes + at_once * padded_depth(k));
  work.gemm.scratch = (char *)call->scratch + codes_bytes(at_once, k);
  for (size_t sample = 0; sample < samples; ++sample) {
    for (size_t token = 0; token < tokens; token += at_once) {
      const size_t out = sample * n * plane + token * work.gemm.out.row_step;
      work.x = (const float *)x->data + sample * k * plane + token * x_row;
      work.gemm.rows = smaller(tokens - token, at_once);
      work.gemm.out.data = (float *)result->data + out;
      work.gemm.out.residual = residual != NULL ? (const float *)residual->data + out : NULL;
      edge_threads *threads = edge_threads_for(call, (double)(work.gemm.rows * k) / CODES_A_NANOSECOND);
      edge_parallel(threads, blocks(work.gemm.rows, EDGE_TOKEN_BLOCK), quantize, &work);
      threads = edge_threads_for(call, (double)(work.gemm.rows * k) * (double)n / MACS_A_NANOSECOND);
      edge_parallel(threads, split(&work, edge_thread_count(threads)), multiply, &work);
    }
  }
  return EDGE_OK;
}

static edge_status check_ternary_linear(edge_call *call) { return check(call, &ternary_linear); }
static edge_status run_ternary_linear(edge_call *call) { return run(call, &ternary_linear); }
static void pack_ternary_linear(edge_call *call) { pack(call, &ternary_linear); }
static edge_status check_int_linear(edge_call *call) { return check(call, &int_linear); }
static edge_status run_int_linear(edge_call *call) { return run(call, &int_linear); }
static void pack_int_linear(edge_call *call) { pack(call, &int_linear); }
static edge_status check_ternary_conv1x1(edge_call *call) { return check(call, &ternary_conv1x1); }
static edge_status run_ternary_conv1x1(edge_call *call) { return run(call, &ternary_conv1x1); }
static void pack_ternary_conv1x1(edge_call *call) { pack(call, &ternary_conv1x1); }
static edge_status check_int_conv1x1(edge_call *call) { return check(call, &int_conv1x1); }
static edge_status run_int_conv1x1(edge_call *call) { return run(call, &int_conv1x1); }
static void pack_int_conv1x1(edge_call *call) { pack(call, &int_conv1x1); }

/* Blocks of tokens are quantized before their outputs are written: those may be in the same place, where they are as
 * many. A residual is read where the output is written. */
#define COVERS .covers = 1u << X | 1u << RESIDUAL
/* The convolutions take x (0), the residual (4) and the output in either order. */
#define CONVOLUTION(out) COVERS, .channels_last = 1u << X | 1u << RESIDUAL | 1u << (out), .alike = {RESIDUAL, out}

const edge_op edge_op_edge_ternary_linear = {"edge::ternary_linear.out", 9, 1, check_ternary_linear,
                                             run_ternary_linear, pack_ternary_linear, COVERS};
const edge_op edge_op_edge_int_linear = {"edge::int_linear.out", 9, 1, check_int_linear, run_int_linear,
                                         pack_int_linear, COVERS};
const edge_op edge_op_edge_ternary_conv1x1 = {"edge::ternary_conv1x1.out", 8, 1, check_ternary_conv1x1,
                                              run_ternary_conv1x1, pack_ternary_conv1x1, CONVOLUTION(7)};
const edge_op edge_op_edge_int_conv1x1 = {"edge::int_conv1x1.out", 9, 1, check_int_conv1x1, run_int_conv1x1,
                                          pack_int_conv1x1, CONVOLUTION(8)};
