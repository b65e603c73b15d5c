/* Each loop keeps enough independent sums in registers to hide the latency of its instructions, and touches no memory.
 * The empty asm statements make a value unknown to the compiler, which would otherwise compute the loop in its head. */
#include "peak.h"

#include <stdint.h>
#include <string.h>

#include "kernels/kernels.h"

#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))
#define EDGE_PEAK_X86
#include <immintrin.h>

#include "kernels/avxvnni/avxvnni.h"
#elif defined(__GNUC__) && defined(__aarch64__)
#define EDGE_PEAK_NEON
#include <arm_neon.h>
#if defined(__linux__)
#include <sys/auxv.h>
#endif
#endif

#if defined(__GNUC__)
#define OPAQUE(value, kind) __asm__ volatile("" : "+" kind(value))
#else
#define OPAQUE(value, kind) ((void)(value))
#endif

/* One spell is long against the clock's resolution and short against a time slice. */
#define ROUNDS 4000

/* Runs a spell of ROUNDS rounds and returns how many multiply-accumulates a round has. */
typedef int (*spell_fn)(void);

static volatile int32_t sink;

#ifdef EDGE_PEAK_X86

#define EIGHT(step) step(s0) step(s1) step(s2) step(s3) step(s4) step(s5) step(s6) step(s7)
#define SIXTEEN(step) EIGHT(step) step(s8) step(s9) step(sa) step(sb) step(sc) step(sd) step(se) step(sf)

/* Six products before their sums, which otherwise wait: of all orders tried on a Zen 4 the fastest. In assembly, because
 * a compiler multiplies once for all sums. */
__attribute__((target("avx2"))) static int int8_maddubs(void) {
  __m256i x = _mm256_set1_epi8(1), s0 = x, s1 = x, s2 = x, s3 = x, s4 = x, s5 = x, p0, p1, p2, p3, p4, p5;
  for (int round = 0; round < ROUNDS; ++round) {
#define MULTIPLY(product) __asm__ volatile("vpmaddubsw %1, %1, %0" : "=x"(product) : "x"(x));
#define ADD(sum, product) __asm__ volatile("vpaddw %1, %0, %0" : "+x"(sum) : "x"(product));
    MULTIPLY(p0) MULTIPLY(p1) MULTIPLY(p2) MULTIPLY(p3) MULTIPLY(p4) MULTIPLY(p5)
    ADD(s0, p0) ADD(s1, p1) ADD(s2, p2) ADD(s3, p3) ADD(s4, p4) ADD(s5, p5)
#undef MULTIPLY
#undef ADD
  }
  return 6 * 32;
}

#define DOT(name, isa, vector, set, dot, first)                                                               \
  __attribute__((target(isa))) static int name(void) {                                                        \
    vector x = set(1), s0 = x, s1 = x, s2 = x, s3 = x, s4 = x, s5 = x, s6 = x, s7 = x, s8 = x, s9 = x, sa = x; \
    vector sb = x, sc = x, sd = x, se = x, sf = x;                                                            \
    SIXTEEN(KEEP) /* else they were one and the same sum */                                               \
    for (int round = 0; round < ROUNDS; ++round) {                                                            \
      SIXTEEN(DOT_STEP_##dot)                                                                                 \
      OPAQUE(x, "x");                                                                                         \
    }                                                                                                         \
    SIXTEEN(KEEP)                                                                                         \
    sink = first(s0);                                                                                         \
    return 16 * (int)sizeof(vector);                                                                          \
  }
#define DOT_STEP_vnni512(sum) sum = _mm512_dpbusd_epi32(sum, x, x);
#define DOT_STEP_vnni256(sum) sum = _mm256_dpbusd_epi32(sum, x, x);
#define DOT_STEP_avxvnni(sum) sum = _mm256_dpbusd_avx_epi32(sum, x, x);
#define KEEP(sum) OPAQUE(sum, "x");
#define FIRST_512(v) _mm_cvtsi128_si32(_mm512_castsi512_si128(v))
#define FIRST_256(v) _mm_cvtsi128_si32(_mm256_castsi256_si128(v))
DOT(int8_dpbusd_512, "avx512f,avx512bw,avx512vnni", __m512i, _mm512_set1_epi8, vnni512, FIRST_512)
DOT(int8_dpbusd_256, "avx512f,avx512vl,avx512vnni", __m256i, _mm256_set1_epi8, vnni256, FIRST_256)
#if defined(EDGE_HAS_AVXVNNI)
DOT(int8_dpbusd_vex, "avx2,avxvnni", __m256i, _mm256_set1_epi8, avxvnni, FIRST_256)
#endif

#define FLOATS(name, isa, vector, set, multiply, add)                                                   \
  __attribute__((target(isa))) static int name(void) {                                                  \
    vector x = set(1e-9f), s0 = x, s1 = x, s2 = x, s3 = x, s4 = x, s5 = x, s6 = x, s7 = x;               \
    for (int round = 0; round < ROUNDS; ++round) {                                                      \
      FLOAT_STEP(s0, vector, multiply, add) FLOAT_STEP(s1, vector, multiply, add)                       \
      FLOAT_STEP(s2, vector, multiply, add) FLOAT_STEP(s3, vector, multiply, add)                       \
      FLOAT_STEP(s4, vector, multiply, add) FLOAT_STEP(s5, vector, multiply, add)                       \
      FLOAT_STEP(s6, vector, multiply, add) FLOAT_STEP(s7, vector, multiply, add)                       \
      OPAQUE(x, "x");                                                                                   \
    }                                                                                                   \
    EIGHT(KEEP)                                                                                     \
    return 8 * (int)(sizeof(vector) / sizeof(float));                                                   \
  }
#define FLOAT_STEP(sum, vector, multiply, add) \
  {                                            \
    OPAQUE(x, "x"); /* else one product */     \
    vector product = multiply(x, x);           \
    OPAQUE(product, "x");                      \
    sum = add(sum, product);                   \
  }
FLOATS(float_512, "avx512f", __m512, _mm512_set1_ps, _mm512_mul_ps, _mm512_add_ps)
FLOATS(float_256, "avx2", __m256, _mm256_set1_ps, _mm256_mul_ps, _mm256_add_ps)
FLOATS(float_128, "sse2", __m128, _mm_set1_ps, _mm_mul_ps, _mm_add_ps)

__attribute__((target("avx2"))) static void read_256(const uint8_t *bytes, size_t count) {
  __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
  for (size_t i = 0; i + 128 <= count; i += 128) {
    a = _mm256_or_si256(a, _mm256_loadu_si256((const __m256i *)(bytes + i)));
    b = _mm256_or_si256(b, _mm256_loadu_si256((const __m256i *)(bytes + i + 32)));
    c = _mm256_or_si256(c, _mm256_loadu_si256((const __m256i *)(bytes + i + 64)));
    d = _mm256_or_si256(d, _mm256_loadu_si256((const __m256i *)(bytes + i + 96)));
  }
  sink = FIRST_256(_mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d)));
}

#endif

#ifdef EDGE_PEAK_NEON

__attribute__((target("arch=armv8.2-a+dotprod"))) static int int8_sdot(void) {
  int8x16_t x = vdupq_n_s8(1);
  int32x4_t sums[16];
  for (int i = 0; i < 16; ++i) sums[i] = vdupq_n_s32(0);
  for (int i = 0; i < 16; ++i) OPAQUE(sums[i], "w"); /* else they were one and the same sum */
  for (int round = 0; round < ROUNDS; ++round) {
    for (int i = 0; i < 16; ++i) {
      __asm__("sdot %0.4s, %1.16b, %1.16b" : "+w"(sums[i]) : "w"(x));
    }
    OPAQUE(x, "w");
  }
  for (int i = 0; i < 16; ++i) OPAQUE(sums[i], "w");
  sink = vgetq_lane_s32(sums[0], 0);
  return 16 * 16;
}

static int int8_smlal(void) {
  int8x8_t x = vdup_n_s8(1);
  int16x8_t sums[16];
  for (int i = 0; i < 16; ++i) sums[i] = vdupq_n_s16(0);
  for (int i = 0; i < 16; ++i) OPAQUE(sums[i], "w");
  for (int round = 0; round < ROUNDS; ++round) {
    for (int i = 0; i < 16; ++i) sums[i] = vmlal_s8(sums[i], x, x);
    OPAQUE(x, "w");
  }
  for (int i = 0; i < 16; ++i) OPAQUE(sums[i], "w");
  sink = vgetq_lane_s16(sums[0], 0);
  return 16 * 8;
}

static int float_128(void) {
  float32x4_t x = vdupq_n_f32(1e-9f), sums[8];
  for (int i = 0; i < 8; ++i) sums[i] = x;
  for (int round = 0; round < ROUNDS; ++round) {
    for (int i = 0; i < 8; ++i) {
      float32x4_t product = vmulq_f32(x, x);
      OPAQUE(product, "w");
      sums[i] = vaddq_f32(sums[i], product);
    }
    OPAQUE(x, "w");
  }
  for (int i = 0; i < 8; ++i) OPAQUE(sums[i], "w");
  return 8 * 4;
}

static bool has_dotprod(void) {
#if defined(__ARM_FEATURE_DOTPROD)
  return true;
#elif defined(__linux__)
  return (getauxval(AT_HWCAP) >> 20 & 1) != 0; /* HWCAP_ASIMDDP */
#else
  return false;
#endif
}

#endif

/* What any compiler makes of plain C. */
static int int8_plain(void) {
  int8_t x[64];
  int32_t sums[64];
  for (int i = 0; i < 64; ++i) x[i] = 1, sums[i] = 0;
  for (int round = 0; round < ROUNDS; ++round) {
    for (int i = 0; i < 64; ++i) sums[i] += x[i] * x[63 - i];
    OPAQUE(x[round & 63], "m");
  }
  for (int i = 0; i < 64; ++i) sink = sums[i];
  return 64;
}

static int float_plain(void) {
  float x[64], sums[64];
  for (int i = 0; i < 64; ++i) x[i] = 1e-9f, sums[i] = 0.0f;
  for (int round = 0; round < ROUNDS; ++round) {
    for (int i = 0; i < 64; ++i) sums[i] += x[i] * x[63 - i];
    OPAQUE(x[round & 63], "m");
  }
  for (int i = 0; i < 64; ++i) sink = (int32_t)sums[i];
  return 64;
}

static void read_plain(const uint8_t *bytes, size_t count) {
  uint64_t sums[8] = {0};
  for (size_t i = 0; i + 64 <= count; i += 64) {
    uint64_t words[8];
    memcpy(words, bytes + i, sizeof words);
    for (int j = 0; j < 8; ++j) sums[j] |= words[j];
  }
  for (int j = 0; j < 8; ++j) sink = (int32_t)sums[j];
}

/* Adds the best rate of a sequence: other work on the machine only ever makes a spell longer. */
static void add(edge_rate *rates, size_t *count, const char *name, spell_fn spell, edge_clock clock, double seconds) {
  double start = clock(), now = start, best = 0.0;
  do {
    double macs = (double)spell() * ROUNDS, before = now;
    now = clock();
    if (now > before && macs / (now - before) > best) best = macs / (now - before);
  } while (now - start < seconds);
  rates[*count].name = name;
  rates[(*count)++].macs_per_second = best;
}

static double best_read(void (*read)(const uint8_t *, size_t), edge_clock clock, double seconds, const void *buffer,
                        size_t bytes) {
  double start = clock(), now = start, best = 0.0;
  do {
    double before = now;
    read(buffer, bytes);
    now = clock();
    if (now > before && (double)bytes / (now - before) > best) best = (double)bytes / (now - before);
  } while (now - start < seconds);
  return best;
}

void edge_measure_peak(edge_clock clock, double seconds, const void *buffer, size_t bytes, edge_peak *peak) {
  void (*read)(const uint8_t *, size_t) = read_plain;
  peak->int8_count = peak->float32_count = 0;
#define INT8(name, spell) add(peak->int8, &peak->int8_count, name, spell, clock, seconds)
#define FLOAT32(name, spell) add(peak->float32, &peak->float32_count, name, spell, clock, seconds)
#if defined(EDGE_PEAK_X86)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2")) {
    read = read_256;
    INT8("vpmaddubsw+vpaddw", int8_maddubs);
    FLOAT32("vmulps+vaddps ymm", float_256);
  } else if (__builtin_cpu_supports("sse2")) {
    FLOAT32("mulps+addps xmm", float_128);
  }
  if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vnni")) {
    INT8("vpdpbusd zmm", int8_dpbusd_512);
    if (__builtin_cpu_supports("avx512vl")) INT8("vpdpbusd ymm", int8_dpbusd_256);
  }
#if defined(EDGE_HAS_AVXVNNI)
  else if (edge_kernels_named("avxvnni") != NULL) {
    INT8("vpdpbusd ymm", int8_dpbusd_vex);
  }
#endif
  if (__builtin_cpu_supports("avx512f")) FLOAT32("vmulps+vaddps zmm", float_512);
#elif defined(EDGE_PEAK_NEON)
  if (has_dotprod()) INT8("sdot", int8_sdot);
  INT8("smlal", int8_smlal);
  FLOAT32("fmul+fadd", float_128);
#endif
  if (peak->int8_count == 0) INT8("plain C", int8_plain);
  if (peak->float32_count == 0) FLOAT32("plain C", float_plain);
  peak->read_bytes_per_second = best_read(read, clock, seconds, buffer, bytes);
}
