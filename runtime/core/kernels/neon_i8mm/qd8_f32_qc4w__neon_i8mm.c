/* int8 activations times 4-bit weights with SMMLA; the contract is that of scalar/qd8_f32_qc4w_gemm.c, the layout is in
 * neon/panel.h. */
#include "kernels/neon/neon.h"

#if defined(__aarch64__)

#define EDGE_BITS 4
#define EDGE_GROUP 8
#include "kernels/neon/panel.h"

EDGE_I8MM_BEGIN
#include "kernels/neon_i8mm/tile__neon_i8mm.h"
/* which it uses */
#include "kernels/neon/qd8_gemm.h"
EDGE_I8MM_END

size_t edge_qd8_f32_qc4w_packed_bytes__neon_i8mm(size_t n, size_t k) { return packed_bytes(n, k); }

void edge_qd8_f32_qc4w_pack__neon_i8mm(size_t n, size_t k, const uint8_t *weight, void *packed) {
  pack(n, k, weight, packed);
}

void edge_qd8_f32_qc4w_gemm__neon_i8mm(const edge_qd8_gemm *gemm, size_t first, size_t last) { run(gemm, first, last); }

#endif
