/* The epilogue of a row of sums, with what is the same for all outputs looked at once. */
#include "kernels/micro/finish.h"

#if defined(EDGE_BARE_METAL)

#include "kernels/micro/floats.h"
#include "kernels/scalar/epilogue.h"

#if defined(__ARM_FP)
static inline float edge_finished(int32_t sum, float scale, const float *bias, bool relu) {
  float y = (float)sum * scale;
  if (bias != NULL) y += *bias;
  return relu ? edge_reluf(y) : y;
}

#if defined(__OPTIMIZE_SIZE__) /* 1.2 KB less, for three instructions an output more */
/* Below `floor` an output is 0: 0 for ReLU, else minus infinity. */
static inline float above(float y, float floor) { return y < floor ? 0.0f : y; }

/* Of outputs with one scale; the loop that most models are in. */
static void finish_alike(size_t count, const int32_t *sums, float scale, const float *bias, float floor, float *out,
                         size_t step) {
  const int32_t *const fours = sums + count / 4 * 4, *const end = sums + count;
  for (; sums != fours; sums += 4, bias += 4, out += 4 * step) {
    out[0] = above((float)sums[0] * scale + bias[0], floor);
    out[step] = above((float)sums[1] * scale + bias[1], floor);
    out[2 * step] = above((float)sums[2] * scale + bias[2], floor);
    out[3 * step] = above((float)sums[3] * scale + bias[3], floor);
  }
  for (; sums != end; ++sums, ++bias, out += step) *out = above((float)*sums * scale + *bias, floor);
}

/* Of outputs with a scale each. */
static void finish_each(size_t count, const int32_t *sums, const float *scales, float row_step, const float *bias,
                        float floor, float *out, size_t step) {
  for (const int32_t *const end = sums + count; sums != end; ++sums, ++scales, ++bias, out += step) {
    *out = above((float)*sums * (*scales * row_step) + *bias, floor);
  }
}
#else
/* Which epilogue: known where finish_run becomes part of its caller, so that its loop asks nothing. */
typedef struct kind {
  bool same, relu;
} kind;

static inline __attribute__((always_inline)) void finish_run(kind of, size_t count, const int32_t *sums,
                                                             const float *scales, float row_step, const float *bias,
                                                             float *out, size_t step) {
  const float first = scales[0] * row_step;
  const int32_t *const fours = sums + count / 4 * 4, *const end = sums + count;
  for (; sums != fours; sums += 4, scales += 4, bias += 4, out += 4 * step) {
    float a = (float)sums[0], b = (float)sums[1], c = (float)sums[2], d = (float)sums[3];
    a *= of.same ? first : scales[0] * row_step;
    b *= of.same ? first : scales[1] * row_step;
    c *= of.same ? first : scales[2] * row_step;
    d *= of.same ? first : scales[3] * row_step;
    a += bias[0], b += bias[1], c += bias[2], d += bias[3];
    out[0] = of.relu ? edge_reluf(a) : a;
    out[step] = of.relu ? edge_reluf(b) : b;
    out[2 * step] = of.relu ? edge_reluf(c) : c;
    out[3 * step] = of.relu ? edge_reluf(d) : d;
  }
  for (; sums != end; ++sums, ++scales, ++bias, out += step) {
    const float y = (float)*sums * (of.same ? first : *scales * row_step) + *bias;
    *out = of.relu ? edge_reluf(y) : y;
  }
}
#endif
#else
/* In integers where all numbers are usual. */
static inline float edge_finished(int32_t sum, float scale, const float *bias, bool relu) {
  const uint32_t bits = edge_bits_of(scale);
  const edge_factor factor = edge_factor_of(bits);
  edge_float y;
  if (edge_is_usual(bits) && edge_scaled(sum, &factor, &y) && (bias == NULL || edge_sum(&y, edge_bits_of(*bias)))) {
    return edge_of_bits(relu && y.sign ? 0 : edge_float_bits(&y));
  }
  float z = (float)sum * scale;
  if (bias != NULL) z += *bias;
  return relu ? edge_reluf(z) : z;
}
#endif

#if !defined(__ARM_FP) && defined(__thumb__)
#define OWN_RUN 1
#if defined(EDGE_SHORT_PRODUCTS)
#define RUN_WITHOUT_BIAS 0
#else
#define RUN_WITHOUT_BIAS 1
#endif

/* edge_finished of a run of outputs that lie side by side, with one scale: in some 70 instructions each, or 95
 * of those of a Cortex-M0, where `bias` must not be NULL. */
typedef struct run {
  edge_factor factor; /* of the scale */
  int32_t less;
  const int32_t *end;  /* of the sums */
  uint32_t relu;       /* all ones or none */
  uint32_t scale_bits; /* of the scale */
} run;

void edge_micro_finish_run(const int32_t *sums, float *out, const float *bias, const run *by);

/* One output, where the run finds numbers that are not usual. */
uint32_t edge_micro_finish_one(int32_t sum, uint32_t scale_bits, const float *bias, uint32_t relu) {
  return edge_bits_of(edge_finished(sum, edge_of_bits(scale_bits), bias, relu != 0));
}

#if defined(EDGE_SHORT_PRODUCTS)
/* Leading zeros of a byte, and four. */
#define TWO(n) n, n
#define FOUR(n) TWO(n), TWO(n)
#define SIXTEEN(n) FOUR(n), FOUR(n), FOUR(n), FOUR(n)
#define SIXTY_FOUR(n) SIXTEEN(n), SIXTEEN(n), SIXTEEN(n), SIXTEEN(n)
const uint8_t edge_micro_zeros[256] = {
    12, 11, TWO(10), FOUR(9), FOUR(8), FOUR(8), SIXTEEN(7), SIXTEEN(6), SIXTEEN(6), SIXTY_FOUR(5), SIXTY_FOUR(4),
    SIXTY_FOUR(4),
};

/* r0 sums, r1 outputs; r2 to r7 what the comments say; r8, r9 lower and upper half of the factor's mantissa, r10 its
 * exponent, r11 less, r12 from outputs to bias, lr the factor's sign. The steps are those of floats.h. */
__asm__(
    "  .syntax unified\n"
    "  .thumb\n"
    "  .text\n"
    "  .global edge_micro_finish_run\n"
    "  .type edge_micro_finish_run, %function\n"
    "  .thumb_func\n"
    "edge_micro_finish_run:\n"
    "  push {r4-r7, lr}\n"
    "  mov r4, r8\n"
    "  mov r5, r9\n"
    "  mov r6, r10\n"
    "  mov r7, r11\n"
    "  push {r4-r7}\n"
    "  sub sp, #20\n"
    "  subs r2, r2, r1\n"
    "  mov r12, r2\n"
    "  ldmia r3!, {r4-r7}\n"
    "  lsls r2, r4, #12\n"
    "  lsrs r2, r2, #20\n"
    "  mov r8, r2\n"
    "  lsrs r4, r4, #20\n"
    "  mov r9, r4\n"
    "  adds r5, #20\n"
    "  mov r10, r5\n"
    "  mov lr, r6\n"
    "  mov r11, r7\n"
    "  ldmia r3!, {r4-r6}\n"
    "  str r4, [sp]\n"
    "  str r5, [sp, #4]\n"
    "  str r6, [sp, #8]\n"
    "  ldr r4, 10f\n"
    "  str r4, [sp, #12]\n"
    "  b 8f\n"
    "  .align 2\n"
    "10: .word edge_micro_zeros\n"
    "1:\n"
    "  ldmia r0!, {r2}\n" /* the sum */
    "  mov r3, r11\n"
    "  subs r2, r2, r3\n"
    "  beq 9f\n"
    "  asrs r3, r2, #31\n" /* r3 its sign */
    "  eors r2, r3\n"
    "  subs r2, r2, r3\n"
    "  lsrs r4, r2, #16\n"
    "  bne 9f\n"
    "  mov r4, r8\n"
    "  muls r4, r2, r4\n"
    "  mov r5, r9\n"
    "  muls r5, r2, r5\n"
    "  lsrs r6, r4, #12\n"
    "  adds r5, r5, r6\n" /* r5 the upper bits of the product, r4 the lower twelve on top */
    "  lsls r4, r4, #20\n"
    "  ldr r7, [sp, #12]\n"
    "  lsrs r6, r5, #20\n"
    "  bne 2f\n"
    "  lsrs r6, r5, #12\n"
    "  beq 9f\n"
    "  ldrb r6, [r7, r6]\n"
    "  adds r6, #8\n"
    "  b 3f\n"
    "2:\n"
    "  ldrb r6, [r7, r6]\n"
    "3:\n"
    "  lsls r5, r6\n"
    "  movs r7, #32\n"
    "  subs r7, r7, r6\n"
    "  lsrs r4, r7\n"
    "  orrs r5, r4\n" /* r5 the mantissa */
    "  mov r4, r10\n"
    "  subs r4, r4, r6\n" /* r4 the exponent */
    "  mov r6, lr\n"
    "  eors r3, r6\n"
    "  uxtb r6, r5\n"
    "  cmp r6, #128\n"
    "  beq 9f\n"
    "  adds r5, #128\n"
    "  bcs 9f\n"
    "  lsrs r5, r5, #8\n"
    "  lsls r5, r5, #6\n"
    "  mov r2, r12\n"
    "  ldr r2, [r2, r1]\n" /* r2 the bias, r6 its exponent */
    "  lsls r6, r2, #1\n"
    "  lsrs r6, r6, #24\n"
    "  movs r7, r6\n"
    "  subs r7, #32\n"
    "  cmp r7, #190\n"
    "  bhs 9f\n"
    "  subs r7, r4, r6\n"
    "  blt 5f\n"
    "  eors r5, r3\n"
    "  subs r5, r5, r3\n"
    "  lsls r6, r2, #9\n"
    "  lsrs r6, r6, #3\n"
    "  movs r3, #1\n"
    "  lsls r3, r3, #29\n"
    "  orrs r6, r3\n"
    "  movs r3, r6\n"
    "  lsrs r3, r7\n"
    "  negs r7, r7\n"
    "  adds r7, #32\n"
    "  lsls r6, r7\n"
    "  beq 4f\n"
    "  movs r6, #1\n"
    "  orrs r3, r6\n"
    "4:\n"
    "  asrs r2, r2, #31\n"
    "  eors r3, r2\n"
    "  subs r3, r3, r2\n"
    "  adds r5, r5, r3\n"
    "  beq 9f\n"
    "  asrs r3, r5, #31\n"
    "  eors r5, r3\n"
    "  subs r5, r5, r3\n"
    "  adds r4, #1\n"
    "6:\n"
    "  subs r4, #1\n"
    "  lsls r5, r5, #1\n"
    "  bpl 6b\n"
    "  lsrs r6, r5, #9\n" /* the carry is the bit that half is rounded by */
    "  movs r7, #127\n"
    "  adcs r5, r7\n"
    "  bcs 9f\n"
    "  lsrs r5, r5, #8\n"
    "  lsls r4, r4, #23\n"
    "  adds r5, r5, r4\n"
    "  lsls r6, r3, #31\n"
    "  orrs r5, r6\n"
    "  ldr r6, [sp, #4]\n"
    "  ands r6, r3\n"
    "  bics r5, r6\n"
    "7:\n"
    "  stmia r1!, {r5}\n"
    "8:\n"
    "  ldr r6, [sp]\n"
    "  cmp r0, r6\n"
    "  bne 1b\n"
    "  add sp, #20\n"
    "  pop {r4-r7}\n"
    "  mov r8, r4\n"
    "  mov r9, r5\n"
    "  mov r10, r6\n"
    "  mov r11, r7\n"
    "  pop {r4-r7, pc}\n"
    "9:\n"
    "  mov r2, r12\n"
    "  mov r3, lr\n"
    "  push {r0-r3}\n"
    "  subs r0, #4\n"
    "  ldr r0, [r0]\n"
    "  mov r4, r11\n"
    "  subs r0, r0, r4\n"
    "  adds r2, r2, r1\n"
    "  ldr r1, [sp, #24]\n"
    "  ldr r3, [sp, #20]\n"
    "  bl edge_micro_finish_one\n"
    "  movs r5, r0\n"
    "  pop {r0-r3}\n"
    "  mov r12, r2\n"
    "  mov lr, r3\n"
    "  b 7b\n"
    /* The bias is the larger. */
    "5:\n"
    "  movs r4, r6\n"
    "  movs r6, r5\n"
    "  negs r7, r7\n"
    "  lsrs r5, r7\n"
    "  negs r7, r7\n"
    "  adds r7, #32\n"
    "  lsls r6, r7\n"
    "  beq 11f\n"
    "  movs r6, #1\n"
    "  orrs r5, r6\n"
    "11:\n"
    "  eors r5, r3\n"
    "  subs r5, r5, r3\n"
    "  lsls r6, r2, #9\n"
    "  lsrs r6, r6, #3\n"
    "  movs r3, #1\n"
    "  lsls r3, r3, #29\n"
    "  orrs r3, r6\n"
    "  b 4b\n");
#else
/* r0 sums, r1 outputs, r2 bias or 0, r3 other; r4 to r7 mantissa, exponent, sign, less; r8 sign, r9 mantissa, r10
 * exponent of the value, r12 bias. The steps are those of floats.h. */
__asm__(
    "  .syntax unified\n"
    "  .thumb\n"
    "  .text\n"
    "  .global edge_micro_finish_run\n"
    "  .type edge_micro_finish_run, %function\n"
    "  .thumb_func\n"
    "edge_micro_finish_run:\n"
    "  push {r4-r11, lr}\n"
    "  sub sp, #12\n"
    "  ldm.w r3, {r4-r10}\n"
    "  strd r8, r9, [sp]\n"
    "  str r10, [sp, #8]\n"
    "  add r5, #32\n"
    "  b 8f\n"
    "1:\n"
    "  ldr r9, [r0], #4\n"
    "  subs r9, r9, r7\n"
    "  beq 9f\n"
    "  asr r8, r9, #31\n"
    "  eor r9, r9, r8\n"
    "  sub r9, r9, r8\n"
    "  clz r11, r9\n"
    "  cmp r11, #8\n"
    "  blo 9f\n"
    "  lsl r9, r9, r11\n"
    "  sub r10, r5, r11\n"
    "  umull r11, r9, r9, r4\n"
    "  cmp r9, #0\n"
    "  blt 2f\n"
    "  adds r11, r11, r11\n"
    "  adc r9, r9, r9\n"
    "  sub r10, r10, #1\n"
    "2:\n"
    "  eor r8, r8, r6\n"
    "  uxtb r3, r9\n"
    "  cmp r3, #0x80\n"
    "  beq 9f\n"
    "  adds r9, r9, #0x80\n"
    "  bcs 9f\n"
    "  cmp r2, #0\n"
    "  beq 6f\n"
    "  ldr r12, [r2]\n"
    "  bic r9, r9, #0xFF\n"
    "  ubfx lr, r12, #23, #8\n"
    "  sub r3, lr, #32\n"
    "  cmp r3, #190\n"
    "  bhs 9f\n"
    "  lsr r9, r9, #2\n"
    "  lsl r11, r12, #8\n"
    "  orr r11, r11, #0x80000000\n"
    "  lsr r11, r11, #2\n"
    "  asr r12, r12, #31\n"
    "  subs lr, r10, lr\n"
    "  blt 5f\n"
    "  lsr r3, r11, lr\n"
    "  lsl lr, r3, lr\n"
    "  cmp lr, r11\n"
    "  it ne\n"
    "  orrne r3, r3, #1\n"
    "3:\n"
    "  eor r9, r9, r8\n"
    "  sub r9, r9, r8\n"
    "  eor r3, r3, r12\n"
    "  sub r3, r3, r12\n"
    "  adds r9, r9, r3\n"
    "  beq 9f\n"
    "  asr r8, r9, #31\n"
    "  eor r9, r9, r8\n"
    "  sub r9, r9, r8\n"
    "  clz r3, r9\n"
    "  lsl r9, r9, r3\n"
    "  sub r10, r10, r3\n"
    "  ubfx r3, r9, #8, #1\n"
    "  add r3, r3, #0x7F\n"
    "  adds r9, r9, r3\n"
    "  bcs 9f\n"
    "  add r2, r2, #4\n"
    "  add r10, r10, #1\n"
    "4:\n"
    "  lsr r9, r9, #8\n"
    "  ldr r3, [sp, #4]\n"
    "  add r9, r9, r10, lsl #23\n"
    "  orr r9, r9, r8, lsl #31\n"
    "  and r3, r3, r8\n"
    "  bic r9, r9, r3\n"
    "7:\n"
    "  str r9, [r1], #4\n"
    "8:\n"
    "  ldr r3, [sp]\n"
    "  cmp r0, r3\n"
    "  bne 1b\n"
    "  add sp, #12\n"
    "  pop {r4-r11, pc}\n"
    /* The bias is the larger. */
    "5:\n"
    "  rsb lr, lr, #0\n"
    "  add r10, r10, lr\n"
    "  lsr r3, r9, lr\n"
    "  lsl lr, r3, lr\n"
    "  cmp lr, r9\n"
    "  it ne\n"
    "  orrne r3, r3, #1\n"
    "  mov r9, r3\n"
    "  mov r3, r11\n"
    "  b 3b\n"
    /* There is none. */
    "6:\n"
    "  sub r10, r10, #1\n"
    "  b 4b\n"
    "9:\n"
    "  ldrd r3, r12, [sp, #4]\n"
    "  push {r0-r2, r3}\n"
    "  ldr r0, [r0, #-4]\n"
    "  sub r0, r0, r7\n"
    "  mov r1, r12\n"
    "  bl edge_micro_finish_one\n"
    "  mov r9, r0\n"
    "  pop {r0-r2, r3}\n"
    "  cmp r2, #0\n"
    "  it ne\n"
    "  addne r2, r2, #4\n"
    "  b 7b\n");
#endif
#endif

float edge_micro_finish_value(int32_t sum, float scale, const float *bias, bool relu) {
  return edge_finished(sum, scale, bias, relu);
}

void edge_micro_finish(const edge_qd8_gemm *gemm, size_t r, size_t first, size_t count, const int32_t *sums,
                       int32_t less) {
  const edge_epilogue *epilogue = &gemm->epilogue;
  const edge_row *row = &gemm->row[r];
  const size_t step = gemm->out.step;
  if (epilogue->bitlinear_compat || epilogue->activation > EDGE_ACT_RELU || gemm->out.residual != NULL) {
    for (size_t i = 0; i < count; ++i) {
      edge_store(&gemm->out, r, first + i, edge_dequantize(sums[i] - less, first + i, row, epilogue));
    }
    return;
  }
  float *out = gemm->out.data + r * gemm->out.row_step + first * step;
  const float *scales = epilogue->scales + first * epilogue->scale_step;
  const float *bias = epilogue->bias != NULL ? epilogue->bias + first : NULL;
  const bool relu = epilogue->activation == EDGE_ACT_RELU, same = epilogue->scale_step == 0;
  float scale = scales[0] * row->step;
#if defined(OWN_RUN)
  if (same && step == 1 && (bias != NULL || RUN_WITHOUT_BIAS) && edge_is_usual(edge_bits_of(scale))) {
    const uint32_t bits = edge_bits_of(scale);
    const run by = {edge_factor_of(bits), less, sums + count, relu ? 0xFFFFFFFFu : 0, bits};
    edge_micro_finish_run(sums, out, bias, &by);
    return;
  }
#endif
#if defined(__ARM_FP)
  if (bias != NULL && less == 0) {
#if defined(__OPTIMIZE_SIZE__)
    const float floor = relu ? 0.0f : -INFINITY;
    if (same) {
      finish_alike(count, sums, scale, bias, floor, out, step);
    } else {
      finish_each(count, sums, scales, row->step, bias, floor, out, step);
    }
#else
    if (same && relu) finish_run((kind){true, true}, count, sums, scales, row->step, bias, out, step);
    if (same && !relu) finish_run((kind){true, false}, count, sums, scales, row->step, bias, out, step);
    if (!same && relu) finish_run((kind){false, true}, count, sums, scales, row->step, bias, out, step);
    if (!same && !relu) finish_run((kind){false, false}, count, sums, scales, row->step, bias, out, step);
#endif
    return;
  }
#endif
  for (size_t i = 0; i < count; ++i) {
    if (!same) scale = scales[i] * row->step;
    out[i * step] = edge_finished(sums[i] - less, scale, bias != NULL ? bias + i : NULL, relu);
  }
}

#endif
