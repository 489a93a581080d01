// Computes          y = mean of (a - b)^2
// Shapes and layout a of T, b of U, one shape, contiguous; y one f32
// Work split        mse_parts: a block sums a span of values; mse_total: one block adds the sums of the spans
// Shared memory     eight floats
// Numerics          f32, in an order that depends on the shape alone
// Specialised by    T, U, V (values per access)
// Entries           mse_parts, mse_total
// Gradient          mse_grad.cu
// Sources           none: the definition
#include "block_sum.cuh"
#include "params.cuh"
#include "types.cuh"

extern "C" __global__ void __launch_bounds__(256) mse_parts(const __grid_constant__ MseParams p) {
    const T *a = p.a;
    const U *b = p.b;
    u32 end = min(p.count, (blockIdx.x + 1) * p.span);
    float sum = 0.0f;
    for (u32 i = blockIdx.x * p.span + threadIdx.x * V; i < end; i += 256 * V) {
        float u[V], v[V];
        load_some(u, a + i, end - i);
        load_some(v, b + i, end - i);
#pragma unroll
        for (int j = 0; j < V; j++) sum = fmaf(u[j] - v[j], u[j] - v[j], sum);
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) static_cast<float *>(p.partial)[blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(256) mse_total(const __grid_constant__ MseParams p) {
    float sum = sum_of(p.partial, p.spans);
    if (threadIdx.x == 0) static_cast<float *>(p.y)[0] = sum / float(p.count);
}
