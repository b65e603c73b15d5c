/* The firmware's own C library: math.c. The first four are exact or correctly rounded, as everywhere; the others only
 * serve portable operators, and may be off by some units in the last place, as other libraries' are. */
#ifndef EDGE_LIBC_MATH_H
#define EDGE_LIBC_MATH_H

#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define isnan(x) __builtin_isnan(x)
#define isinf(x) __builtin_isinf(x)
#define isfinite(x) __builtin_isfinite(x)
#define signbit(x) __builtin_signbit(x)

#define fabsf(x) __builtin_fabsf(x)
#define fabs(x) __builtin_fabs(x)
float sqrtf(float x);
float rintf(float x);

double ceil(double x);
double floor(double x);
float ceilf(float x);
float floorf(float x);
float truncf(float x);
float fmodf(float x, float y);
double exp(double x);
double log(double x);
double pow(double x, double y);
float expf(float x);
float expm1f(float x);
float logf(float x);
float powf(float x, float y);
float sinf(float x);
float cosf(float x);

#endif
