/* int8 activations times int8 weights with SDOT; the contract is that of scalar/qd8_f32_qc8w_gemm.c, the layout is in
 * neon/panel.h. */
#include "kernels/neon/neon.h"

#if defined(__aarch64__)

#define EDGE_BITS 8
#define EDGE_GROUP 4
#include "kernels/neon/panel.h"

EDGE_DOTPROD_BEGIN
#include "kernels/neon_dotprod/tile__neon_dotprod.h"
/* which it uses */
#include "kernels/neon/qd8_gemm.h"
EDGE_DOTPROD_END

size_t edge_qd8_f32_qc8w_packed_bytes__neon_dotprod(size_t n, size_t k) { return packed_bytes(n, k); }

void edge_qd8_f32_qc8w_pack__neon_dotprod(size_t n, size_t k, const uint8_t *weight, void *packed) {
  pack(n, k, weight, packed);
}

void edge_qd8_f32_qc8w_gemm__neon_dotprod(const edge_qd8_gemm *gemm, size_t first, size_t last) { run(gemm, first, last); }

#endif
