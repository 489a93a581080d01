// Computes          y = clamp(factor x + offset, low, high)
// Shapes and layout x of T, y of U, one shape, contiguous
// Work split        one thread per V values
// Shared memory     none
// Numerics          one fma in f32, rounded once; NaN passes the clamp
// Specialised by    T, U, V (values per access)
// Entries           scale_forward
// Gradient          factor where the clamp did not bind
// Sources           none: the definition
#include "params.cuh"
#include "types.cuh"

extern "C" __global__ void __launch_bounds__(256) scale_forward(const __grid_constant__ ScaleParams p) {
    const T *x = p.x;
    U *y = p.y;
    u32 i = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (i >= p.count) return;
    float v[V];
    load_some(v, x + i, p.count - i);
#pragma unroll
    for (int j = 0; j < V; j++) {
        float w = fmaf(p.factor, v[j], p.offset);
        // fmaxf and fminf would turn NaN into a bound and hide it
        v[j] = w < p.low ? p.low : w > p.high ? p.high : w;
    }
    store_some(y + i, v, p.count - i);
}
