// Computes          dx = factor dy where factor x + offset is inside [low, high], else 0
// Shapes and layout x, dx of T, dy of U, one shape, contiguous
// Work split        one thread per V values
// Shared memory     none
// Numerics          f32
// Specialised by    T, U, V (values per access)
// Entries           scale_grad_x
// Gradient          none
// Sources           none: the definition
#include "params.cuh"
#include "types.cuh"

extern "C" __global__ void __launch_bounds__(256) scale_grad_x(const __grid_constant__ ScaleGradParams p) {
    u32 i = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (i >= p.count) return;
    float v[V], d[V];
    load_some(v, static_cast<const T *>(p.x) + i, p.count - i);
    load_some(d, static_cast<const U *>(p.dy) + i, p.count - i);
#pragma unroll
    for (int j = 0; j < V; j++) {
        float y = fmaf(p.factor, v[j], p.offset);
        v[j] = y >= p.low && y <= p.high ? p.factor * d[j] : 0.0f;
    }
    store_some(static_cast<T *>(p.dx) + i, v, p.count - i);
}
