// Computes          y[b,c] = mean over s of x[b,s,c]
// Shapes and layout x [B,S,C], y [B,C] of T, contiguous
// Work split        a block takes one image and blockDim.x x V channels; its blockDim.y rows of threads share the rows of x
// Shared memory     one float per thread and value
// Numerics          f32; each thread sums every blockDim.y-th row, the sums are added in their order
// Specialised by    T, V (values per access, which divides C)
// Entries           mean_rows_forward
// Gradient          mean_rows_grad.cu
// Sources           none: the definition
#include "params.cuh"
#include "types.cuh"

extern "C" __global__ void __launch_bounds__(256) mean_rows_forward(const __grid_constant__ MeanRowsParams p) {
    __shared__ float sums[256 * V];
    const T *x = p.x;
    T *y = p.y;
    u32 c = (blockIdx.x * blockDim.x + threadIdx.x) * V, image = blockIdx.y;
    bool there = c < p.channels;
    float sum[V];
#pragma unroll
    for (int j = 0; j < V; j++) sum[j] = 0.0f;
    for (u32 row = threadIdx.y; there && row < p.rows; row += blockDim.y) {
        float v[V];
        load(v, x + (u64(image) * p.rows + row) * p.channels + c);
#pragma unroll
        for (int j = 0; j < V; j++) sum[j] += v[j];
    }
#pragma unroll
    for (int j = 0; j < V; j++) sums[(threadIdx.y * V + j) * blockDim.x + threadIdx.x] = sum[j];
    __syncthreads();
    if (threadIdx.y > 0 || !there) return;
    for (u32 row = 1; row < blockDim.y; row++) {
#pragma unroll
        for (int j = 0; j < V; j++) sum[j] += sums[(row * V + j) * blockDim.x + threadIdx.x];
    }
    float each = 1.0f / float(p.rows);
#pragma unroll
    for (int j = 0; j < V; j++) sum[j] *= each;
    store(y + u64(image) * p.channels + c, sum);
}
