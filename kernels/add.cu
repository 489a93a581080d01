// Computes          y = act(a + b)
// Shapes and layout a, b, y of one shape and of T, contiguous
// Work split        one thread per V values
// Shared memory     none
// Numerics          f32, rounded once
// Specialised by    T, V (values per access), ACT
// Entries           add_forward
// Gradient          that of ACT at a + b, for both inputs
// Sources           none: the definition
#include "act.cuh"
#include "params.cuh"
#include "types.cuh"

extern "C" __global__ void __launch_bounds__(256) add_forward(const __grid_constant__ AddParams p) {
    const T *a = p.a, *b = p.b;
    T *y = p.y;
    u32 i = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (i >= p.count) return;
    float u[V], v[V];
    load_some(u, a + i, p.count - i);
    load_some(v, b + i, p.count - i);
#pragma unroll
    for (int j = 0; j < V; j++) v[j] = activate<ACT>(u[j] + v[j], p.leak);
    store_some(y + i, v, p.count - i);
}
