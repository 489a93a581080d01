// Computes          y = act(x)
// Shapes and layout x, y [..,C] of T, contiguous; slope [C] f32 for PReLU
// Work split        activate_forward: one thread per V values, whatever their place
//                   activate_prelu: a thread keeps V channels and their slopes and walks down the rows
// Shared memory     none
// Numerics          f32; functions to about 2 ulp (act.cuh), NaN stays NaN
// Specialised by    T, V (values per access), ACT
// Entries           activate_forward, activate_prelu
// Gradient          activate_grad.cu
// Sources           Hendrycks, Gimpel 2016 (GELU; its quick form x sigmoid(1.702 x)); Elfwing et al. 2017 (SiLU); He et al. 2015 (PReLU)
#include "act.cuh"
#include "columns.cuh"
#include "params.cuh"
#include "types.cuh"

extern "C" __global__ void __launch_bounds__(256) activate_forward(const __grid_constant__ ActivateParams p) {
    const T *x = p.x;
    T *y = p.y;
    u32 i = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (i >= p.count) return;
    float v[V];
    load_some(v, x + i, p.count - i);
#pragma unroll
    for (int j = 0; j < V; j++) v[j] = activate<ACT>(v[j], p.slope);
    store_some(y + i, v, p.count - i);
}

extern "C" __global__ void __launch_bounds__(256) activate_prelu(const __grid_constant__ ActivatePreluParams p) {
    const T *x = p.x;
    const float *slopes = p.slope;
    T *y = p.y;
    for (u32 c = first_channel<V>(); c < p.channels; c += channel_step<V>()) {
        float slope[V];
        load(slope, slopes + c);
        for (u32 row = first_row(p.rows_per_block); row < end_row(p.rows_per_block, p.rows); row += blockDim.y) {
            u64 at = u64(row) * p.channels + c;
            float v[V];
            load(v, x + at);
#pragma unroll
            for (int j = 0; j < V; j++) v[j] = activate<ACT_PRELU>(v[j], slope[j]);
            store(y + at, v);
        }
    }
}
