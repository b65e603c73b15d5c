/* math_f32.h over sixteen lanes, operation by operation. Included after a vector header, between its targets. */
#include "kernels/math_f32.h"

EDGE_INLINE vf v_poly(vf p, vf x, float c) { return vf_add(vf_mul(p, x), vf_set(c)); }

/* e^x = p * 2^n: returns p and gives n, a whole number. */
EDGE_INLINE vf v_exp_reduced(vf x, vf *power) {
  const vf n = vf_rint(vf_mul(x, vf_set(1.44269504f)));
  const vf r = vf_sub(vf_sub(x, vf_mul(n, vf_set(0.693359375f))), vf_mul(n, vf_set(-2.12194440e-4f)));
  vf p = v_poly(vf_set(0.0013950492f), r, 0.00836889f);
  p = v_poly(p, r, 0.041666206f);
  p = v_poly(p, r, 0.16666518f);
  p = v_poly(p, r, 0.5f);
  p = vf_add(vf_mul(p, vf_mul(r, r)), r);
  *power = n;
  return vf_add(p, vf_set(1.0f));
}

/* exp where the result is a float of full precision or NaN: x from -87.33654 to 0, or NaN. Elsewhere: anything. */
EDGE_INLINE vf v_exp_down(vf x) {
  vf n;
  const vf p = v_exp_reduced(x, &n);
  return vf_times_pow2(p, n); /* in one step: it is exact, or rounds once as the second of two would */
}

/* Of a score below the largest, or NaN: what is not above 0. */
EDGE_INLINE vf v_exp_of_score(vf x) {
  return vf_select(vf_less(x, vf_set(-87.33654f)), vf_set(0.0f), v_exp_down(x));
}

EDGE_INLINE vf v_exp(vf x) {
  vf n;
  const vf p = v_exp_reduced(x, &n);
  const vi exponent = vf_to_int(n), half = vi_half(exponent);
  vf y = vf_mul(vf_mul(p, vi_pow2(half)), vi_pow2(vi_sub(exponent, half)));
  y = vf_select(vf_less(vf_set(88.72283f), x), vf_set(INFINITY), y);
  y = vf_select(vf_less(x, vf_set(-87.33654f)), vf_set(0.0f), y);
  return vf_select(vf_nan(x), x, y);
}

EDGE_INLINE vf v_with_sign_of(vf y, vf x) { return vf_select(vf_less(x, vf_set(0.0f)), vf_neg(y), y); }

EDGE_INLINE vf v_tanh(vf x) {
  const vf a = vf_abs(x), z = vf_mul(x, x);
  vf p = v_poly(vf_set(-0.0057170447f), z, 0.020650586f);
  p = v_poly(p, z, -0.053743497f);
  p = v_poly(p, z, 0.13331491f);
  p = v_poly(p, z, -0.33333284f);
  p = vf_add(vf_mul(vf_mul(p, z), x), x);
  const vf e = v_exp(vf_add(a, a));
  const vf y = vf_sub(vf_set(1.0f), vf_div(vf_set(2.0f), vf_add(e, vf_set(1.0f))));
  return vf_select(vf_less(a, vf_set(0.625f)), p, v_with_sign_of(y, x));
}

EDGE_INLINE vf v_gelu(vf x) {
  const vf z = vf_mul(x, x);
  const vf t = vf_sub(vf_mul(z, vf_set(0.0768935f)), vf_set(1.0f));
  vf p = vf_set(-0.00070253015f);
  p = v_poly(p, t, 0.0019090344f);
  p = v_poly(p, t, -0.0020443501f);
  p = v_poly(p, t, 0.003265146f);
  p = v_poly(p, t, -0.008327069f);
  p = v_poly(p, t, 0.015187641f);
  p = v_poly(p, t, -0.023179779f);
  p = v_poly(p, t, 0.03429803f);
  p = v_poly(p, t, -0.04822144f);
  p = v_poly(p, t, 0.06355303f);
  p = v_poly(p, t, -0.08042078f);
  p = v_poly(p, t, 0.10155766f);
  p = v_poly(p, t, -0.1380069f);
  p = v_poly(p, t, 0.27721065f);
  const vf y = vf_mul(vf_mul(vf_set(0.5f), x), vf_add(vf_mul(p, x), vf_set(1.0f)));
  return vf_select(vf_less(vf_set(26.01f), z), vf_larger(vf_set(0.0f), x), y);
}

EDGE_INLINE vf v_clamp(vf x, float low, float high) {
  const vf y = vf_select(vf_less(vf_set(high), x), vf_set(high), x);
  return vf_select(vf_less(x, vf_set(low)), vf_set(low), y);
}

EDGE_INLINE vf v_one_plus_exp_neg(vf x) { return vf_add(vf_set(1.0f), v_exp(vf_neg(x))); }

/* `activation` is one of EDGE_ACT_*. */
EDGE_INLINE vf v_activate(vf x, int activation) {
  switch (activation) {
    case EDGE_ACT_RELU: return vf_larger(vf_set(0.0f), x);
    case EDGE_ACT_GELU_ERF: return v_gelu(x);
    case EDGE_ACT_GELU_TANH: {
      const vf cube = vf_mul(vf_set(0.044715f), vf_mul(vf_mul(x, x), x));
      const vf tanh = v_tanh(vf_mul(vf_set(0.79788456f), vf_add(x, cube)));
      return vf_mul(vf_mul(vf_set(0.5f), x), vf_add(vf_set(1.0f), tanh));
    }
    case EDGE_ACT_SILU: return vf_div(x, v_one_plus_exp_neg(x));
    case EDGE_ACT_RELU6: return v_clamp(x, 0.0f, 6.0f);
    case EDGE_ACT_HARDSWISH:
      return vf_div(vf_mul(x, v_clamp(vf_add(x, vf_set(3.0f)), 0.0f, 6.0f)), vf_set(6.0f));
    case EDGE_ACT_SIGMOID: return vf_div(vf_set(1.0f), v_one_plus_exp_neg(x));
    case EDGE_ACT_TANH: return v_tanh(x);
    default: return x;
  }
}

/* The code of scalar/f32_qd8_quantize.c: clipped to low .. 127, and 0 where that is NaN. */
EDGE_INLINE vi v_code(vf x, vf scale, vf low) {
  vf code = vf_rint(vf_mul(x, scale));
  code = vf_smaller(vf_set(127.0f), vf_larger(low, code)); /* of two, the second where either is NaN */
  return vf_to_int_or_zero(code);
}

/* The same where scale is 127 / the largest |x|, which no product then leaves by as much as a half. */
EDGE_INLINE vi v_code_within(vf x, vf scale) { return vf_to_int_or_zero(vf_mul(x, scale)); }
