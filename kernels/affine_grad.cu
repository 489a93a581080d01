// Computes          with r = 1 / sqrt(variance + eps), n = (x - mean) r, z = n weight + bias and g = dy act'(z):
//                   dx = g weight r;  dmean = -sum of dx;  dvariance = -sum of g n weight r^2 / 2;  dweight = sum of g n;
//                   dbias = sum of g;  with PReLU dslope = sum of dy min(z, 0)
// Shapes and layout x, dy, dx [rows,C] of T; parameters and their gradients [C] f32; contiguous
// Work split        affine_grad_x: grid (spans of rows, channels): dx and partial sums; affine_grad_total: one thread per channel
// Shared memory     one float per thread and value
// Numerics          f32, sums in an order that depends on the shape alone
// Specialised by    T, V (channels of a thread, which divides C), ACT
// Entries           affine_grad_x, affine_grad_total
// Gradient          none
// Sources           as affine.cu
#include "act.cuh"
#include "column_sums.cuh"
#include "params.cuh"
#include "types.cuh"

extern "C" __global__ void __launch_bounds__(256) affine_grad_x(const __grid_constant__ AffineGradParams p) {
    u32 c = (blockIdx.y * blockDim.x + threadIdx.x) * V;
    u32 end = min(p.rows, (blockIdx.x + 1) * p.span);
    const T *x = p.x, *dy = p.dy;
    T *dx = p.dx;
    ColumnSums<V, 3> sums; // of g, of g n, of the slope
    bool there = c < p.channels;
    if (there) {
        float mean[V], scale[V], weight[V], bias[V], slope[V];
        load(mean, static_cast<const float *>(p.mean) + c);
        load(scale, static_cast<const float *>(p.variance) + c);
        load(weight, static_cast<const float *>(p.weight) + c);
        load(bias, static_cast<const float *>(p.bias) + c);
        if constexpr (ACT == ACT_PRELU) load(slope, static_cast<const float *>(p.slope) + c);
#pragma unroll
        for (int j = 0; j < V; j++) {
            scale[j] = 1.0f / sqrtf(scale[j] + p.eps);
            if constexpr (ACT != ACT_PRELU) slope[j] = p.leak;
        }
        for (u32 row = blockIdx.x * p.span + threadIdx.y; row < end; row += blockDim.y) {
            u64 at = u64(row) * p.channels + c;
            float v[V], d[V];
            load(v, x + at);
            load(d, dy + at);
#pragma unroll
            for (int j = 0; j < V; j++) {
                float n = (v[j] - mean[j]) * scale[j], z = fmaf(n, weight[j], bias[j]);
                float g = d[j] * activate_grad<ACT>(z, slope[j]);
                sums.sum[0][j] += g;
                sums.sum[1][j] = fmaf(g, n, sums.sum[1][j]);
                sums.sum[2][j] = fmaf(d[j], fminf(z, 0.0f), sums.sum[2][j]);
                v[j] = g * weight[j] * scale[j];
            }
            store(dx + at, v);
        }
    }
    sums.write(static_cast<float *>(p.partial) + u64(blockIdx.x) * 3 * p.channels, p.channels, c, there);
}

extern "C" __global__ void __launch_bounds__(256) affine_grad_total(const __grid_constant__ AffineGradParams p) {
    const float *partial = p.partial;
    u32 c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= p.channels) return;
    float g = 0.0f, gn = 0.0f, slope = 0.0f;
    for (u32 span = 0; span < p.spans; span++) {
        const float *of_span = partial + u64(span) * 3 * p.channels + c;
        g += of_span[0];
        gn += of_span[p.channels];
        slope += of_span[2 * p.channels];
    }
    float weight = static_cast<const float *>(p.weight)[c];
    float scale = 1.0f / sqrtf(static_cast<const float *>(p.variance)[c] + p.eps);
    static_cast<float *>(p.dmean)[c] = -g * weight * scale;
    static_cast<float *>(p.dvariance)[c] = -0.5f * gn * weight * scale * scale;
    static_cast<float *>(p.dweight)[c] = gn;
    static_cast<float *>(p.dbias)[c] = g;
    if (p.dslope) static_cast<float *>(p.dslope)[c] = slope;
}
