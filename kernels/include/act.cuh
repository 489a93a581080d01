// Activations of an epilogue and their derivatives, in f32, to about two units in the last place. NaN stays NaN.
// The formulas are those of src/device/cpu/math.rs, so both devices agree to rounding.
#pragma once
#include "ptx.cuh"

/// e^x, rounded as 2^(x log2 e): relative error 1e-7 (1 + |x|).
__forceinline__ float exp_approx(float x) {
    constexpr float LOG2_E = 1.4426950408889634f;
    return ptx::ex2(x * LOG2_E);
}

/// 1 / (1 + e^-x)
__forceinline__ float sigmoid(float x) { return ptx::rcp(1.0f + exp_approx(-x)); }

/// Phi(-|x|), the smaller tail of the normal distribution, without cancellation: erfcx(|x| / sqrt 2) / 2 as a polynomial in
/// t = 1 / (1 + |x| / sqrt 8) without constant term (relative error 8e-8 for |x| up to 14), times e^(-x^2 / 2).
__forceinline__ float normal_tail(float x) {
    constexpr float INV_SQRT_8 = 0.35355339059327373f;
    float t = ptx::rcp(fmaf(fabsf(x), INV_SQRT_8, 1.0f));
    float p = -0.05906858f / 2;
    p = fmaf(p, t, 0.28457338f / 2);
    p = fmaf(p, t, -0.4871972f / 2);
    p = fmaf(p, t, 0.27806467f / 2);
    p = fmaf(p, t, -0.026624357f / 2);
    p = fmaf(p, t, 0.20268647f / 2);
    p = fmaf(p, t, 0.24310382f / 2);
    p = fmaf(p, t, 0.2823753f / 2);
    p = fmaf(p, t, 0.28208643f / 2);
    return p * t * exp_approx(-0.5f * x * x);
}

/// Phi(x)
__forceinline__ float normal_cdf(float x) {
    float tail = normal_tail(x);
    return x > 0.0f ? 1.0f - tail : tail;
}

// The functions are numbered as src/ops/lowering.rs numbers them; Function is known when compiling.
enum Act { ACT_NONE, ACT_RELU, ACT_SILU, ACT_GELU, ACT_QUICK_GELU, ACT_LEAKY_RELU, ACT_PRELU, ACT_SIGMOID };

/// act(x). `slope` is that of the negative half under LEAKY_RELU and PRELU.
template <int Function> __forceinline__ float activate(float x, float slope = 0.0f) {
    if constexpr (Function == ACT_RELU) return x < 0.0f ? 0.0f : x;
    if constexpr (Function == ACT_SILU) return x * sigmoid(x);
    if constexpr (Function == ACT_GELU) return x * normal_cdf(x);
    if constexpr (Function == ACT_QUICK_GELU) return x * sigmoid(1.702f * x);
    if constexpr (Function == ACT_LEAKY_RELU || Function == ACT_PRELU) return x > 0.0f ? x : slope * x;
    if constexpr (Function == ACT_SIGMOID) return sigmoid(x);
    return x;
}

/// d act(x) / dx. At the kink of RELU, LEAKY_RELU and PRELU the negative half counts.
template <int Function> __forceinline__ float activate_grad(float x, float slope = 0.0f) {
    if constexpr (Function == ACT_RELU) return x > 0.0f ? 1.0f : 0.0f;
    if constexpr (Function == ACT_SILU) {
        float s = sigmoid(x);
        return s * fmaf(x, sigmoid(-x), 1.0f);
    }
    if constexpr (Function == ACT_GELU) {
        constexpr float INV_SQRT_2_PI = 0.3989422804014327f;
        return fmaf(x * INV_SQRT_2_PI, exp_approx(-0.5f * x * x), normal_cdf(x));
    }
    if constexpr (Function == ACT_QUICK_GELU) {
        float z = 1.702f * x, s = sigmoid(z);
        return s * fmaf(z, sigmoid(-z), 1.0f);
    }
    if constexpr (Function == ACT_LEAKY_RELU || Function == ACT_PRELU) return x > 0.0f ? 1.0f : slope;
    if constexpr (Function == ACT_SIGMOID) return sigmoid(x) * sigmoid(-x);
    return 1.0f;
}
