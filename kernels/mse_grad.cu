// Computes          da = 2 (a - b) dy / n, or with the factor's sign turned db
// Shapes and layout a of T, b of U, result of R (that of the input it belongs to), one shape, contiguous; dy one f32
// Work split        one thread per V values
// Shared memory     none
// Numerics          f32
// Specialised by    T, U, R, V (values per access)
// Entries           mse_grad_x
// Gradient          none
// Sources           none: the definition
#include "params.cuh"
#include "types.cuh"

extern "C" __global__ void __launch_bounds__(256) mse_grad_x(const __grid_constant__ MseGradParams p) {
    const T *a = p.a;
    const U *b = p.b;
    u32 i = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (i >= p.count) return;
    float u[V], v[V], factor = p.factor * static_cast<const float *>(p.dy)[0];
    load_some(u, a + i, p.count - i);
    load_some(v, b + i, p.count - i);
#pragma unroll
    for (int j = 0; j < V; j++) u[j] = factor * (u[j] - v[j]);
    store_some(static_cast<R *>(p.dx) + i, u, p.count - i);
}
