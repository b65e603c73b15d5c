/* Compiles what lies between EDGE_TARGET_BEGIN and EDGE_TARGET_END for an instruction set that the rest of the file's
 * build does not assume: no compiler flags of its own for any source file, whoever builds the core. */
#ifndef EDGE_KERNELS_SIMD_TARGET_H
#define EDGE_KERNELS_SIMD_TARGET_H

#define EDGE_PRAGMA(words) _Pragma(#words)
#if defined(__clang__)
#define EDGE_TARGET_BEGIN(features) \
  EDGE_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define EDGE_TARGET_END EDGE_PRAGMA(clang attribute pop)
#else
#define EDGE_TARGET_BEGIN(features) EDGE_PRAGMA(GCC push_options) EDGE_PRAGMA(GCC target(features))
#define EDGE_TARGET_END EDGE_PRAGMA(GCC pop_options)
#endif

/* Loops over a tile's registers must disappear, or the tile lives in memory. */
#define EDGE_INLINE static inline __attribute__((always_inline))
#define EDGE_UNROLL EDGE_PRAGMA(GCC unroll 16)
/* A tile that is a call of its own: inlined, it would share its registers with everything around, and compilers then
 * copy or spill sums in the innermost loop. */
#define EDGE_APART static __attribute__((noinline))

/* A tile that is a call of its own: inlined, it would share its registers with everything around, and compilers then
 * copy or spill sums in the innermost loop. */
#define EDGE_APART static __attribute__((noinline))

#endif
