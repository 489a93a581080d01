// Sine and cosine without tables and without local memory, which CUDA's own need for large angles.
#pragma once
#include "types.cuh"

struct SineCosine {
    float sine, cosine;
};

/// Of a turn of `quarters` quarters and r more, |r| <= pi / 4. Taylor series: the next terms are below 2e-9.
__forceinline__ SineCosine quarter_turns(u32 quarters, float r) {
    float z = r * r;
    float s = fmaf(z, fmaf(z, fmaf(z, 2.7557319e-6f, -1.9841270e-4f), 8.3333333e-3f), -0.16666667f);
    s = fmaf(r * z, s, r);
    float c = fmaf(z, fmaf(z, fmaf(z, fmaf(z, -2.7557319e-7f, 2.4801587e-5f), -1.3888889e-3f), 0.041666667f), -0.5f);
    c = fmaf(z, c, 1.0f);
    float sine = quarters & 1 ? c : s, cosine = quarters & 1 ? s : c;
    return {quarters & 2 ? -sine : sine, (quarters + 1) & 2 ? -cosine : cosine};
}

/// Of any angle up to 1e9, reduced in f64.
__forceinline__ SineCosine sine_cosine(float angle) {
    double n = rint(double(angle) * 0.6366197723675814);
    double r = fma(n, -1.5707963267948966, double(angle));
    return quarter_turns(u32(i32(n)), float(r));
}
