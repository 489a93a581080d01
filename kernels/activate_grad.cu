// Computes          dx = dy act'(x), or with OF_SLOPE what each element adds to PReLU's slopes: dy min(x, 0)
// Shapes and layout x, dy [..,C] of T, result [..,C] of T, f32 with OF_SLOPE; slope [C] f32 for PReLU; contiguous
// Work split        activate_grad_flat: one thread per V values; activate_grad_prelu: a thread keeps V channels and their slopes
// Shared memory     none
// Numerics          f32; at a kink the negative half counts
// Specialised by    T, V (values per access), ACT, OF_SLOPE
// Entries           activate_grad_flat, activate_grad_prelu
// Gradient          none
// Sources           as activate.cu
#include "act.cuh"
#include "columns.cuh"
#include "params.cuh"
#include "types.cuh"

extern "C" __global__ void __launch_bounds__(256) activate_grad_flat(const __grid_constant__ ActivateGradParams p) {
    const T *x = p.x, *dy = p.dy;
    u32 i = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (i >= p.count) return;
    float v[V], d[V];
    load_some(v, x + i, p.count - i);
    load_some(d, dy + i, p.count - i);
#pragma unroll
    for (int j = 0; j < V; j++) v[j] = OF_SLOPE ? d[j] * fminf(v[j], 0.0f) : d[j] * activate_grad<ACT>(v[j], p.leak);
    if constexpr (OF_SLOPE) {
        store_some(static_cast<float *>(p.dx) + i, v, p.count - i);
    } else {
        store_some(static_cast<T *>(p.dx) + i, v, p.count - i);
    }
}

extern "C" __global__ void __launch_bounds__(256) activate_grad_prelu(const __grid_constant__ ActivateGradPreluParams p) {
    const T *x = p.x, *dy = p.dy;
    T *dx = p.dx;
    for (u32 c = first_channel<V>(); c < p.channels; c += channel_step<V>()) {
        float slope[V];
        load(slope, static_cast<const float *>(p.slope) + c);
        for (u32 row = first_row(p.rows_per_block); row < end_row(p.rows_per_block, p.rows); row += blockDim.y) {
            u64 at = u64(row) * p.channels + c;
            float v[V], d[V];
            load(v, x + at);
            load(d, dy + at);
#pragma unroll
            for (int j = 0; j < V; j++) d[j] *= activate_grad<ACT_PRELU>(v[j], slope[j]);
            store(dx + at, d);
        }
    }
}
