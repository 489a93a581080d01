// Computes          y = act((x - mean) / sqrt(variance + eps) * weight + bias), stored statistics per channel
// Shapes and layout x, y [..,C] of T, contiguous; mean, variance, weight, bias and for PReLU slope [C] f32
// Work split        a thread keeps V channels with their scale and shift and walks down the rows of its block
// Shared memory     none
// Numerics          f32: scale = weight / sqrt(variance + eps) once, then one subtraction and one fma for each value
// Specialised by    T, V (channels of a thread), ACT
// Entries           affine_forward
// Gradient          affine_grad.cu
// Sources           Ioffe, Szegedy 2015 (batch normalisation at inference)
#include "act.cuh"
#include "columns.cuh"
#include "params.cuh"
#include "types.cuh"

extern "C" __global__ void __launch_bounds__(256) affine_forward(const __grid_constant__ AffineParams p) {
    const T *x = p.x;
    const float *means = p.mean, *variances = p.variance, *weights = p.weight, *biases = p.bias, *slopes = p.slope;
    T *y = p.y;
    for (u32 c = first_channel<V>(); c < p.channels; c += channel_step<V>()) {
        float mean[V], scale[V], bias[V], slope[V];
        float variance[V], weight[V];
        load(mean, means + c);
        load(variance, variances + c);
        load(weight, weights + c);
        load(bias, biases + c);
        if constexpr (ACT == ACT_PRELU) load(slope, slopes + c);
#pragma unroll
        for (int j = 0; j < V; j++) {
            scale[j] = weight[j] / sqrtf(variance[j] + p.eps);
            if constexpr (ACT != ACT_PRELU) slope[j] = p.leak;
        }
        for (u32 row = first_row(p.rows_per_block); row < end_row(p.rows_per_block, p.rows); row += blockDim.y) {
            u64 at = u64(row) * p.channels + c;
            float v[V];
            load(v, x + at);
#pragma unroll
            for (int j = 0; j < V; j++) v[j] = activate<ACT>(fmaf(v[j] - mean[j], scale[j], bias[j]), slope[j]);
            store(y + at, v);
        }
    }
}
