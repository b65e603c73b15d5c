/* The functions of math_f32.h that firmware has once; other builds have them in each kernel, where they are inlined. */
#ifdef EDGE_BARE_METAL
#define EDGE_MATH_DEFINES
#endif
#include "kernels/math_f32.h"
