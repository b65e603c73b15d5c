/* int8 activations times ternary weights in layout `pairs`, two outputs a SMLAD.
 *
 * A lane of a weight operand is w_a + 1 in its lowest and w_b in its highest two bits, so that one SMLAD adds
 * sum (w_a + 1) x to the low 14 bits of its accumulator and sum w_b x to the 18 bits above. Started at -sum x, the low
 * part becomes sum w_a x, which 14 bits hold for 64 columns of codes within 127 (56 of codes within 128): a segment.
 * Behind each segment the low parts are moved to sums of their own; the high ones keep until 1,024 columns are over.
 *
 * The activations are laid out once for all outputs as a stream: each segment is a header (what its accumulators start
 * from, and the address in the unrolled loop where so many steps are left) and steps of eight columns, as half words
 * in the order of the weights. The header behind the last segment leads to the end. Two rows of activations share each
 * operand that is masked out, at half the columns a time.
 */
#include "kernels/armv7e_m_dsp/armv7e_m_dsp.h"

#if defined(EDGE_HAS_ARMV7E_M_DSP)

#include "kernels/micro/finish.h"

#define STEPS_A_SEGMENT 8
/* Columns of one row that are laid out at once; of two rows, half as many. */
#define COLUMNS_AT_ONCE 512
#define STREAM_WORDS (COLUMNS_AT_ONCE / 2 + 24)
/* Outputs of one row whose sums are on the stack; of two rows, half as many. */
#define OUTPUTS_AT_ONCE 128
#define SECOND_ROW (OUTPUTS_AT_ONCE / 2)

/* Eight outputs of one row, or four of two: the weights of the block from the stream's first column on, the stream, and
 * where the sums go: out[0 …] and, for the second row, out[SECOND_ROW …]. */
void edge_pairs_1x8(const uint8_t *weight, const uint32_t *stream, int32_t *out);
void edge_pairs_2x4(const uint8_t *weight, const uint32_t *stream, int32_t *out);
/* Places in them. */
void edge_pairs_1x8_segment(void);
void edge_pairs_1x8_end(void);
void edge_pairs_2x4_segment(void);
void edge_pairs_2x4_end(void);

/* Bytes of code that a step takes. */
#define CODE_1X8 140
#define CODE_2X4 108

__asm__(
    "  .syntax unified\n"
    "  .thumb\n"
    "  .text\n"
    /* Columns {0, 1, 4, 5}[k] and two further of an output pair, for one row or two. */
    "  .macro edge_mac1 sum, word\n"
    "  and.w lr, r12, \\word\n"
    "  smlad \\sum, r2, lr, \\sum\n"
    "  and.w lr, r12, \\word, ror #4\n"
    "  smlad \\sum, r3, lr, \\sum\n"
    "  and.w lr, r12, \\word, ror #8\n"
    "  smlad \\sum, r4, lr, \\sum\n"
    "  and.w lr, r12, \\word, ror #12\n"
    "  smlad \\sum, r5, lr, \\sum\n"
    "  .endm\n"
    /* The low 14 bits of a sum, sign-extended, move to `low`. */
    "  .macro edge_split sum, low\n"
    "  sbfx lr, \\sum, #0, #14\n"
    "  add \\low, \\low, lr\n"
    "  sub.w \\sum, \\sum, lr\n"
    "  .endm\n"
    "  .macro edge_split_all\n"
    "  ldm.w sp, {r2-r5}\n"
    "  edge_split r8, r2\n"
    "  edge_split r9, r3\n"
    "  edge_split r10, r4\n"
    "  edge_split r11, r5\n"
    "  stm.w sp, {r2-r5}\n"
    "  .endm\n"
    "  .macro edge_enter\n"
    "  push {r4-r11, lr}\n"
    "  sub sp, #20\n"
    "  str r2, [sp, #16]\n"
    "  mov.w r8, #0\n"
    "  mov.w r9, #0\n"
    "  mov.w r10, #0\n"
    "  mov.w r11, #0\n"
    "  stm.w sp, {r8-r11}\n"
    "  movw r12, #0xC003\n"
    "  movt r12, #0xC003\n"
    "  .endm\n"

    "  .global edge_pairs_1x8\n"
    "  .type edge_pairs_1x8, %function\n"
    "  .thumb_func\n"
    "edge_pairs_1x8:\n"
    "  edge_enter\n"
    "1:\n"
    "  ldrd r6, r7, [r1], #8\n"
    "  add r8, r6\n"
    "  add r9, r6\n"
    "  add r10, r6\n"
    "  add r11, r6\n"
    "  bx r7\n"
    "  .global edge_pairs_1x8_segment\n"
    "  .type edge_pairs_1x8_segment, %function\n"
    "  .thumb_func\n"
    "edge_pairs_1x8_segment:\n"
    "  .rept 8\n"
    "  ldmia.w r1!, {r2-r5}\n"
    "  ldrd r6, r7, [r0], #8\n"
    "  edge_mac1 r8, r6\n"
    "  edge_mac1 r9, r7\n"
    "  ldrd r6, r7, [r0], #8\n"
    "  edge_mac1 r10, r6\n"
    "  edge_mac1 r11, r7\n"
    "  .endr\n"
    "  edge_split_all\n"
    "  b.n 1b\n"
    "  .global edge_pairs_1x8_end\n"
    "  .type edge_pairs_1x8_end, %function\n"
    "  .thumb_func\n"
    "edge_pairs_1x8_end:\n"
    "  ldm.w sp, {r2-r5}\n"
    "  ldr r0, [sp, #16]\n"
    "  asr.w r8, r8, #14\n"
    "  asr.w r9, r9, #14\n"
    "  asr.w r10, r10, #14\n"
    "  asr.w r11, r11, #14\n"
    "  strd r2, r8, [r0]\n"
    "  strd r3, r9, [r0, #8]\n"
    "  strd r4, r10, [r0, #16]\n"
    "  strd r5, r11, [r0, #24]\n"
    "  add sp, #20\n"
    "  pop {r4-r11, pc}\n"

    /* One operand, two rows. */
    "  .macro edge_both sum, other, x, y\n"
    "  smlad \\sum, \\x, lr, \\sum\n"
    "  smlad \\other, \\y, lr, \\other\n"
    "  .endm\n"
    "  .global edge_pairs_2x4\n"
    "  .type edge_pairs_2x4, %function\n"
    "  .thumb_func\n"
    "edge_pairs_2x4:\n"
    "  edge_enter\n"
    "1:\n"
    "  ldmia.w r1!, {r5-r7}\n"
    "  add r8, r5\n"
    "  add r9, r6\n"
    "  add r10, r5\n"
    "  add r11, r6\n"
    "  bx r7\n"
    "  .global edge_pairs_2x4_segment\n"
    "  .type edge_pairs_2x4_segment, %function\n"
    "  .thumb_func\n"
    "edge_pairs_2x4_segment:\n"
    "  .rept 8\n"
    "  ldrd r6, r7, [r0], #16\n"
    "  ldmia.w r1!, {r2-r5}\n"
    "  and.w lr, r12, r6\n"
    "  edge_both r8, r9, r2, r4\n"
    "  and.w lr, r12, r6, ror #4\n"
    "  edge_both r8, r9, r3, r5\n"
    "  and.w lr, r12, r7\n"
    "  edge_both r10, r11, r2, r4\n"
    "  and.w lr, r12, r7, ror #4\n"
    "  edge_both r10, r11, r3, r5\n"
    "  ldmia.w r1!, {r2-r5}\n"
    "  and.w lr, r12, r6, ror #8\n"
    "  edge_both r8, r9, r2, r4\n"
    "  and.w lr, r12, r6, ror #12\n"
    "  edge_both r8, r9, r3, r5\n"
    "  and.w lr, r12, r7, ror #8\n"
    "  edge_both r10, r11, r2, r4\n"
    "  and.w lr, r12, r7, ror #12\n"
    "  edge_both r10, r11, r3, r5\n"
    "  .endr\n"
    "  edge_split_all\n"
    "  b.n 1b\n"
    "  .global edge_pairs_2x4_end\n"
    "  .type edge_pairs_2x4_end, %function\n"
    "  .thumb_func\n"
    "edge_pairs_2x4_end:\n"
    "  ldm.w sp, {r2-r5}\n"
    "  ldr r0, [sp, #16]\n"
    "  asr.w r8, r8, #14\n"
    "  asr.w r9, r9, #14\n"
    "  asr.w r10, r10, #14\n"
    "  asr.w r11, r11, #14\n"
    "  strd r2, r8, [r0]\n"
    "  strd r4, r10, [r0, #8]\n"
    "  strd r3, r9, [r0, #256]\n"
    "  strd r5, r11, [r0, #264]\n"
    "  add sp, #20\n"
    "  pop {r4-r11, pc}\n");

/* Eight codes as half words, in the order of a step, half of them so many bytes behind the others; and their sum. */
#define spread(from, to, sums, bytes)                                                                              \
  __asm__("ldrd r2, r3, [%0], #8\n sxtb16 r4, r2\n sxtb16 r5, r2, ror #8\n strd r4, r5, [%1], #" bytes "\n"         \
          "sadd16 %2, %2, r4\n sadd16 %2, %2, r5\n sxtb16 r4, r3\n sxtb16 r5, r3, ror #8\n"                         \
          "strd r4, r5, [%1], #" bytes "\n sadd16 %2, %2, r4\n sadd16 %2, %2, r5\n"                                 \
          : "+r"(*(from)), "+r"(*(to)), "+r"(*(sums))                                                              \
          :                                                                                                        \
          : "r2", "r3", "r4", "r5", "memory")

/* The stream of `rows` (1 or 2) rows of codes, `padded` bytes apart, for so many steps. */
static void lay_out(size_t rows, const int8_t *codes, size_t padded, size_t steps, size_t steps_a_segment,
                    uint32_t *stream) {
  const uint32_t segment = rows == 1 ? (uint32_t)(uintptr_t)edge_pairs_1x8_segment
                                     : (uint32_t)(uintptr_t)edge_pairs_2x4_segment;
  const uint32_t code = rows == 1 ? CODE_1X8 : CODE_2X4;
  while (steps > 0) {
    const size_t count = steps < steps_a_segment ? steps : steps_a_segment;
    const uint32_t entry = segment + (uint32_t)(STEPS_A_SEGMENT - count) * code;
    uint32_t *const header = stream;
    stream += rows + 1;
    for (size_t r = 0; r < rows; ++r) {
      const int8_t *from = codes + r * padded;
      uint32_t *to = stream + 2 * r;
      uint32_t sums = 0; /* two, of half words: 128 codes at most */
      if (rows == 1) {
        for (size_t s = 0; s < count; ++s) spread(&from, &to, &sums, "8");
      } else {
        for (size_t s = 0; s < count; ++s) spread(&from, &to, &sums, "16");
      }
      header[r] = (uint32_t)-edge_smlad(sums, 0x00010001u, 0);
    }
    header[rows] = entry;
    stream += count * 4 * rows;
    codes += count * 8;
    steps -= count;
  }
  stream[0] = stream[1] = 0;
  stream[rows] = (uint32_t)(uintptr_t)(rows == 1 ? edge_pairs_1x8_end : edge_pairs_2x4_end);
}

/* The last block, of fewer than eight outputs, for one row and all columns. */
static void few(size_t outputs, size_t steps, const uint8_t *weight, const int8_t *codes, int32_t *out) {
  const size_t pairs = outputs / 2;
  const uint32_t *x = (const uint32_t *)(const void *)codes;
  for (size_t o = 0; o < outputs; ++o) out[o] = 0;
  for (size_t s = 0; s < steps; ++s, x += 2) {
    const uint32_t a = edge_sxtb16(x[0]), b = edge_sxtb16_ror8(x[0]);
    const uint32_t c = edge_sxtb16(x[1]), d = edge_sxtb16_ror8(x[1]);
    int32_t start = edge_smlad(a, 0xFFFFFFFFu, edge_smlad(b, 0xFFFFFFFFu, 0));
    start = edge_smlad(c, 0xFFFFFFFFu, edge_smlad(d, 0xFFFFFFFFu, start));
    for (size_t p = 0; p < pairs; ++p, weight += 4) {
      const uint32_t word = *(const uint32_t *)(const void *)weight, mask = 0xC003C003u;
      int32_t sum = edge_smlad(a, word & mask, start);
      sum = edge_smlad(b, (word >> 4 | word << 28) & mask, sum);
      sum = edge_smlad(c, (word >> 8 | word << 24) & mask, sum);
      sum = edge_smlad(d, (word >> 12 | word << 20) & mask, sum);
      const int32_t low = (int32_t)((uint32_t)sum << 18) >> 18;
      out[2 * p] += low;
      out[2 * p + 1] += (sum - low) >> 14;
    }
  }
  if (outputs % 2 == 0) return;
  int32_t sum = 0;
  for (size_t s = 0; s < steps; ++s, weight += 2) {
    for (size_t i = 0; i < 8; ++i) sum += codes[8 * s + i] * ((weight[i / 4] >> i % 4 * 2 & 3) - 1);
  }
  out[outputs - 1] = sum;
}

/* Sums of whole blocks of outputs over the columns of the stream; `more` adds them to those that are there. */
static void multiply(size_t rows, size_t outputs, size_t steps, const uint8_t *weight, const uint32_t *stream, bool more,
                     int32_t *acc) {
  int32_t block[SECOND_ROW + 8];
  for (size_t b = 0; b < outputs; b += 8, weight += 16 * steps, acc += 8) {
    int32_t *out = more ? block : acc;
    if (rows == 1) {
      edge_pairs_1x8(weight, stream, out);
    } else {
      edge_pairs_2x4(weight, stream, out);
      edge_pairs_2x4(weight + 8, stream, out + 4);
    }
    if (!more) continue;
    for (size_t i = 0; i < 8; ++i) acc[i] += block[i];
    if (rows == 1) continue;
    for (size_t i = SECOND_ROW; i < SECOND_ROW + 8; ++i) acc[i] += block[i];
  }
}

void edge_qd8_f32_qc2w_gemm__armv7e_m_dsp(const edge_qd8_gemm *gemm, size_t first, size_t last) {
  const size_t steps = (gemm->k + 7) / 8, segment = gemm->epilogue.bitlinear_compat ? 7 : STEPS_A_SEGMENT;
  uint32_t stream[STREAM_WORDS];
  for (size_t r = 0, rows; r < gemm->rows; r += rows) {
    rows = gemm->rows - r >= 2 ? 2 : 1;
    const int8_t *codes = gemm->codes + r * gemm->padded;
    const size_t part = COLUMNS_AT_ONCE / 8 / rows;
    if (steps <= part) lay_out(rows, codes, gemm->padded, steps, segment, stream);
    for (size_t o = first, count; o < last; o += count) {
      count = OUTPUTS_AT_ONCE / rows < last - o ? OUTPUTS_AT_ONCE / rows : last - o;
      const size_t whole = count / 8 * 8;
      const uint8_t *weight = (const uint8_t *)gemm->weight + o * 2 * steps;
      int32_t acc[OUTPUTS_AT_ONCE];
      for (size_t s = 0; s < steps && whole > 0; s += part) {
        if (steps > part) {
          lay_out(rows, codes + 8 * s, gemm->padded, steps - s < part ? steps - s : part, segment, stream);
        }
        multiply(rows, whole, steps, weight + s * 16, stream, s > 0, acc);
      }
      for (size_t i = 0; i < rows; ++i) {
        int32_t *sums = acc + i * SECOND_ROW;
        if (count > whole) {
          few(count - whole, steps, weight + whole * 2 * steps, codes + i * gemm->padded, sums + whole);
        }
        edge_micro_finish(gemm, r + i, o, count, sums, 0);
      }
    }
  }
}

#endif
