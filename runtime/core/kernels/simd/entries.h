/* Names of the kernels that each instruction set has in files of its own, and how they stand in its table. */
#ifndef EDGE_KERNELS_SIMD_ENTRIES_H
#define EDGE_KERNELS_SIMD_ENTRIES_H

#include "kernels/kernels.h"

#define EDGE_DECLARE_GEMM(weights, isa)                                            \
  size_t edge_##weights##_packed_bytes__##isa(size_t n, size_t k);                 \
  void edge_##weights##_pack__##isa(size_t n, size_t k, const uint8_t *, void *);  \
  void edge_##weights##_gemm__##isa(const edge_qd8_gemm *, size_t first, size_t last);
#define EDGE_GEMM(weights, isa) \
  { edge_##weights##_packed_bytes__##isa, edge_##weights##_pack__##isa, edge_##weights##_gemm__##isa }

#define EDGE_DECLARE_CONV2D_AS(name, isa)                                                            \
  size_t edge_##name##_packed_bytes__##isa(const edge_conv2d *);                                     \
  void edge_##name##_pack__##isa(const edge_conv2d *, const void *weight, void *);                   \
  size_t edge_##name##_image_bytes__##isa(const edge_conv2d *);                                      \
  void edge_##name##_quantize__##isa(const edge_conv2d *, const float *, bool, void *, edge_row *);  \
  void edge_##name##__##isa(const edge_qd8_conv2d *, size_t first, size_t last);
#define EDGE_CONV2D_AS(name, isa)                                                                        \
  {                                                                                                      \
    edge_##name##_packed_bytes__##isa, edge_##name##_pack__##isa, edge_##name##_image_bytes__##isa,      \
        edge_##name##_quantize__##isa, edge_##name##__##isa                                              \
  }
#define EDGE_DECLARE_CONV2D(isa) EDGE_DECLARE_CONV2D_AS(qd8_conv2d, isa)
#define EDGE_CONV2D(isa) EDGE_CONV2D_AS(qd8_conv2d, isa)

#define EDGE_DECLARE_ATTENTION(isa)                                    \
  size_t edge_qd8_attention_scratch__##isa(size_t keys, size_t depth); \
  void edge_qd8_attention__##isa(const edge_attention_head *, size_t first, size_t last);
#define EDGE_ATTENTION(isa) \
  { edge_qd8_attention_scratch__##isa, edge_qd8_attention__##isa }

#endif
