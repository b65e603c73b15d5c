/* The epilogue of a row of sums: scalar/epilogue.h. */
#ifndef EDGE_KERNELS_MICRO_FINISH_H
#define EDGE_KERNELS_MICRO_FINISH_H

#include "kernels/kernels.h"

/* Outputs first .. first + count - 1 of row r, from their sums, each of which is too large by `less`. */
void edge_micro_finish(const edge_qd8_gemm *gemm, size_t r, size_t first, size_t count, const int32_t *sums,
                       int32_t less);
/* One output, which neither bitlinear's numerics nor another activation than ReLU nor a residual have a part in. */
float edge_micro_finish_value(int32_t sum, float scale, const float *bias, bool relu);

#endif
