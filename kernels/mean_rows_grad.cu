// Computes          dx[b,s,c] = scale dy[b,c]
// Shapes and layout dy [B,C] of T, dx [B,S,C] of U, contiguous
// Work split        one thread per V values of dx
// Shared memory     none
// Numerics          one product in f32
// Specialised by    T, U, V (values per access, which divides C)
// Entries           mean_rows_grad_x
// Gradient          none
// Sources           none: the definition
#include "params.cuh"
#include "types.cuh"

extern "C" __global__ void __launch_bounds__(256) mean_rows_grad_x(const __grid_constant__ MeanRowsGradParams p) {
    u32 i = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (i >= p.count) return;
    u32 row = i / p.channels, c = i - row * p.channels;
    float v[V];
    load(v, static_cast<const T *>(p.dy) + row / p.rows * p.channels + c);
#pragma unroll
    for (int j = 0; j < V; j++) v[j] *= p.scale;
    store(static_cast<U *>(p.dx) + i, v);
}
