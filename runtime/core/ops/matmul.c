/* aten::mm, bmm and addmm, in float32 on the f32_gemm kernel. */
#include "kernels/kernels.h"
#include "ops/ops.h"
#include "ops/walk.h"

#include <string.h>

/* out [m, n] = a [m, k] @ b [k, n], all row-major. */
static void multiply(const edge_kernels *kernels, size_t m, size_t k, size_t n, const float *a, const float *b, float *out) {
  const edge_output_view view = {out, NULL, n, 1};
  kernels->f32_gemm(m, n, k, (edge_matrix){a, k, 1}, (edge_matrix){b, 1, n}, NULL, 0, &view);
}

/* Matrices at `first` and `first + 1`, out at `out`; of rank 2, or 3 with equal batches. */
static edge_status check_product(edge_call *call, uint32_t first, uint32_t rank, uint32_t out) {
  const edge_tensor *a, *b;
  EDGE_TRY(edge_take_tensor(call, first, "the first matrix", EDGE_F32, &a));
  EDGE_TRY(edge_take_tensor(call, first + 1, "the second matrix", EDGE_F32, &b));
  if (a->rank != rank || b->rank != rank || a->sizes[rank - 1] != b->sizes[rank - 2] ||
      (rank == 3 && a->sizes[0] != b->sizes[0])) {
    edge_shape_text a_text, b_text;
    return edge_fail(call, EDGE_BAD_ARGUMENT, "shapes %s and %s do not multiply",
                     edge_shape_string(&a_text, a->sizes, a->rank), edge_shape_string(&b_text, b->sizes, b->rank));
  }
  int32_t sizes[EDGE_MAX_RANK];
  memcpy(sizes, a->sizes, a->rank * sizeof sizes[0]);
  sizes[rank - 1] = b->sizes[rank - 1];
  EDGE_TRY(edge_take_output(call, out, "out", EDGE_F32, sizes, rank));
  call->macs = (uint64_t)edge_elements(edge_tensor_at(call, out)) * (uint64_t)a->sizes[rank - 1];
  return EDGE_OK;
}

static edge_status check_mm(edge_call *call) { return check_product(call, 0, 2, 2); }
static edge_status check_bmm(edge_call *call) { return check_product(call, 0, 3, 2); }

static edge_status run_mm(edge_call *call) {
  const edge_tensor *a = edge_tensor_at(call, 0), *b = edge_tensor_at(call, 1);
  multiply(call->kernels, (size_t)a->sizes[0], (size_t)a->sizes[1], (size_t)b->sizes[1], a->data, b->data,
           edge_tensor_at(call, 2)->data);
  return EDGE_OK;
}

static edge_status run_bmm(edge_call *call) {
  const edge_tensor *a = edge_tensor_at(call, 0), *b = edge_tensor_at(call, 1);
  const size_t m = (size_t)a->sizes[1], k = (size_t)a->sizes[2], n = (size_t)b->sizes[2];
  for (size_t i = 0; i < (size_t)a->sizes[0]; ++i) {
    multiply(call->kernels, m, k, n, (const float *)a->data + i * m * k, (const float *)b->data + i * k * n,
             (float *)edge_tensor_at(call, 2)->data + i * m * n);
  }
  return EDGE_OK;
}

/* aten::addmm(self, mat1, mat2, beta, alpha, out) = beta * self + alpha * mat1 @ mat2 */
enum { SELF, MAT1, MAT2, BETA, ALPHA, ADDMM_OUT };

static edge_status check_addmm(edge_call *call) {
  const edge_tensor *self;
  double ignored;
  EDGE_TRY(edge_take_tensor(call, SELF, "self", EDGE_F32, &self));
  EDGE_TRY(edge_take_real(call, BETA, "beta", &ignored));
  EDGE_TRY(edge_take_real(call, ALPHA, "alpha", &ignored));
  EDGE_TRY(check_product(call, MAT1, 2, ADDMM_OUT));
  const edge_tensor *out = edge_tensor_at(call, ADDMM_OUT);
  int32_t sizes[EDGE_MAX_RANK];
  uint32_t rank;
  EDGE_TRY(edge_broadcast_shape(call, out->sizes, out->rank, self, sizes, &rank));
  return edge_expect_shape(call, out, "out", sizes, rank);
}

static edge_status run_addmm(edge_call *call) {
  const edge_tensor *self = edge_tensor_at(call, SELF), *a = edge_tensor_at(call, MAT1);
  const edge_tensor *b = edge_tensor_at(call, MAT2), *out = edge_tensor_at(call, ADDMM_OUT);
  const float alpha = (float)edge_real_at(call, ALPHA), beta = (float)edge_real_at(call, BETA);
  multiply(call->kernels, (size_t)a->sizes[0], (size_t)a->sizes[1], (size_t)b->sizes[1], a->data, b->data, out->data);
  edge_walk walk;
  edge_walk_over(&walk, out->sizes, out->rank);
  edge_walk_broadcast(&walk, 0, self);
  const int64_t step = edge_walk_step(&walk, 0);
  float *y = out->data;
  for (; walk.more; edge_walk_next(&walk), y += walk.row) {
    const float *added = (const float *)self->data + walk.offset[0];
    for (int64_t i = 0; i < walk.row; ++i) {
      y[i] = alpha * y[i];
      if (beta != 0.0f) y[i] += beta * added[i * step]; /* a zero beta hides even NaN, as in torch */
    }
  }
  return EDGE_OK;
}

const edge_op edge_op_aten_mm = {"aten::mm.out", 3, 1, check_mm, run_mm};
const edge_op edge_op_aten_bmm = {"aten::bmm.out", 3, 1, check_bmm, run_bmm};
const edge_op edge_op_aten_addmm = {"aten::addmm.out", 6, 1, check_addmm, run_addmm};
