// Computes          e = e_u + g (e_c - e_u);  x0 = (x - sqrt(1-a) e) / sqrt(a);  y = sqrt(a') x0 + sqrt(1-a') e
// Shapes and layout x, y [B,..] f32; eps [2B,..] of T, unconditional half first (GUIDED), or [B,..]; coefficients [4], guidance [1] f32
// Work split        one thread per V values
// Shared memory     none
// Numerics          f32; coefficients are read from the device, so one captured graph serves every step
// Specialised by    T, V (values per access), GUIDED
// Entries           ddim_step_forward
// Gradient          none: sampling is not trained through
// Sources           Song, Meng, Ermon 2020 (DDIM), eta = 0; Ho, Salimans 2022 (guidance)
#include "params.cuh"
#include "types.cuh"

extern "C" __global__ void __launch_bounds__(256) ddim_step_forward(const __grid_constant__ DdimStepParams p) {
    const float *x = p.x, *coefficients = p.coefficients, *guidance = p.guidance;
    const T *eps = p.eps;
    float *y = p.y;
    u32 i = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (i >= p.count) return;
    u32 left = p.count - i;
    float v[V], e[V], conditional[V];
    load_some(v, x + i, left);
    load_some(e, eps + i, left);
    if constexpr (GUIDED) {
        // the second half starts wherever the first ends: it is aligned only if the count is a multiple of V
        if (p.count % V == 0) {
            load(conditional, eps + p.count + i);
        } else {
#pragma unroll
            for (int j = 0; j < V; j++) conditional[j] = j < int(left) ? to_f32(eps[p.count + i + j]) : 0.0f;
        }
        float g = guidance[0];
#pragma unroll
        for (int j = 0; j < V; j++) e[j] = fmaf(g, conditional[j] - e[j], e[j]);
    }
    float c0 = coefficients[0], c1 = coefficients[1], c2 = coefficients[2], c3 = coefficients[3];
#pragma unroll
    for (int j = 0; j < V; j++) {
        float clean = (v[j] - c1 * e[j]) / c0;
        v[j] = fmaf(c2, clean, c3 * e[j]);
    }
    store_some(y + i, v, left);
}
