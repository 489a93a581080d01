// Computes          the gradients of y = c2 x0 + c3 e with e = e_u + g (e_c - e_u) and x0 = (x - c1 e) / c0 in x, eps, c and g
// Shapes and layout x, dy, dx [B,..] f32; eps, deps [2B,..] of T (GUIDED) or [B,..]; c, dc [4], g, dg [1] f32; contiguous
// Work split        ddim_step_grad_parts: a block takes a span of values, writes their gradients and its five sums;
//                   ddim_step_grad_total: one block adds the sums of the spans
// Shared memory     forty floats
// Numerics          f32, in an order that depends on the shape alone
// Specialised by    T, GUIDED
// Entries           ddim_step_grad_parts, ddim_step_grad_total
// Gradient          none
// Sources           as ddim_step.cu
#include "params.cuh"
#include "reduce.cuh"
#include "types.cuh"

/// Adds five sums over the block; out[n] gets the n-th.
__forceinline__ void five_sums(const float (&sum)[5], float *out) {
    __shared__ float parts[5][8];
#pragma unroll
    for (int n = 0; n < 5; n++) {
        float total = over_threads<Sum, 256>(sum[n], parts[n]);
        if (threadIdx.x == 0) out[n] = total;
    }
}

extern "C" __global__ void __launch_bounds__(256) ddim_step_grad_parts(const __grid_constant__ DdimStepGradParams p) {
    const float *x = p.x, *c = p.coefficients, *dy = p.dy;
    const T *eps = p.eps;
    T *deps = p.deps;
    float c0 = c[0], c1 = c[1], c2 = c[2], c3 = c[3], guidance = 0.0f;
    if constexpr (GUIDED) guidance = static_cast<const float *>(p.guidance)[0];
    float of_e = c3 - c2 * c1 / c0, sum[5] = {};
    u32 end = min(p.count, (blockIdx.x + 1) * p.span);
    for (u32 i = blockIdx.x * p.span + threadIdx.x; i < end; i += 256) {
        float d = dy[i], e = to_f32(eps[i]), change = 0.0f;
        if constexpr (GUIDED) {
            change = to_f32(eps[p.count + i]) - e;
            e = fmaf(guidance, change, e);
            deps[p.count + i] = from_f32<T>(d * of_e * guidance);
        }
        deps[i] = from_f32<T>(d * of_e * (1.0f - guidance));
        float clean = (x[i] - c1 * e) / c0;
        static_cast<float *>(p.dx)[i] = d * c2 / c0;
        sum[0] -= d * c2 * clean / c0;
        sum[1] -= d * c2 * e / c0;
        sum[2] = fmaf(d, clean, sum[2]);
        sum[3] = fmaf(d, e, sum[3]);
        sum[4] = fmaf(d * of_e, change, sum[4]);
    }
    five_sums(sum, static_cast<float *>(p.partial) + blockIdx.x * 5);
}

extern "C" __global__ void __launch_bounds__(256) ddim_step_grad_total(const __grid_constant__ DdimStepGradParams p) {
    __shared__ float totals[5];
    const float *partial = p.partial;
    float sum[5] = {};
    for (u32 i = threadIdx.x; i < p.spans; i += 256) {
#pragma unroll
        for (int n = 0; n < 5; n++) sum[n] += partial[i * 5 + n];
    }
    five_sums(sum, totals);
    __syncthreads();
    if (threadIdx.x < 4) static_cast<float *>(p.dcoefficients)[threadIdx.x] = totals[threadIdx.x];
    if (GUIDED && threadIdx.x == 4) static_cast<float *>(p.dguidance)[0] = totals[4];
}
