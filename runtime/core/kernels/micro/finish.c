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

#if !defined(__ARM_FP) && defined(__thumb2__)
/* edge_finished of a run of outputs that lie side by side, with one scale, in some 70 instructions each. */
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
#if !defined(__ARM_FP) && defined(__thumb2__)
  if (same && step == 1 && edge_is_usual(edge_bits_of(scale))) {
    const uint32_t bits = edge_bits_of(scale);
    const run by = {edge_factor_of(bits), less, sums + count, relu ? 0xFFFFFFFFu : 0, bits};
    edge_micro_finish_run(sums, out, bias, &by);
    return;
  }
#endif
#if defined(__ARM_FP)
  if (bias != NULL && less == 0) {
    if (same && relu) finish_run((kind){true, true}, count, sums, scales, row->step, bias, out, step);
    if (same && !relu) finish_run((kind){true, false}, count, sums, scales, row->step, bias, out, step);
    if (!same && relu) finish_run((kind){false, true}, count, sums, scales, row->step, bias, out, step);
    if (!same && !relu) finish_run((kind){false, false}, count, sums, scales, row->step, bias, out, step);
    return;
  }
#endif
  for (size_t i = 0; i < count; ++i) {
    if (!same) scale = scales[i] * row->step;
    out[i * step] = edge_finished(sums[i] - less, scale, bias != NULL ? bias + i : NULL, relu);
  }
}

#endif
