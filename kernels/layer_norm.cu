// Computes          y = (x - mean) / sqrt(variance + eps) * weight + bias, statistics of each row
// Shapes and layout x, y [rows,C] of T, contiguous; weight, bias [C] f32
// Work split        LANES threads hold a row in registers; a block walks over `rows_per_block` rows
// Shared memory     weight and bias, read once for all rows of the block; sums where a row takes more than a warp
// Numerics          f32; the mean first, then the mean of squared distances from it, so nothing cancels. V is 4 at most, so that an
//                   access of the f32 parameters is 16 bytes wide and neighbouring lanes read neighbouring bytes
// Specialised by    T, V, NV, LANES (rows.cuh), ROW_THREADS of a block: more where that repays reading the parameters
// Entries           layer_norm_forward
// Gradient          layer_norm_grad.cu
// Sources           Ba, Kiros, Hinton 2016, "Layer Normalization"
#include "params.cuh"
#include "rows.cuh"

typedef Row<V, NV, LANES, ROW_THREADS> Held;

extern __shared__ float4 shared_floats[];

extern "C" __global__ void __launch_bounds__(Held::THREADS) layer_norm_forward(const __grid_constant__ LayerNormParams p) {
    __shared__ float parts[2][2][Held::PARTS];
    float *weights = reinterpret_cast<float *>(shared_floats), *biases = weights + p.channels;
    for (u32 c = threadIdx.x; c < p.channels; c += blockDim.x) {
        weights[c] = static_cast<const float *>(p.weight)[c];
        biases[c] = static_cast<const float *>(p.bias)[c];
    }
    __syncthreads();

    const T *x = p.x;
    T *y = p.y;
    float each = 1.0f / float(p.channels);
    u32 end = min(p.rows, (blockIdx.x + 1) * p.rows_per_block);
    int turn = 0;
    Held row;
    for (u32 first = blockIdx.x * p.rows_per_block; first < end; first += Held::AT_ONCE, turn ^= 1) {
        u32 i = first + Held::place();
        bool there = i < end;
        u64 at = u64(i) * p.channels;
        row.load_row(x + at, p.channels, there);
        float mean = row.join<Sum>(p.channels, 0.0f, parts[turn][0], [](float v, int, int) { return v; }) * each;
        float squares = row.join<Sum>(p.channels, 0.0f, parts[turn][1], [=](float v, int, int) { return (v - mean) * (v - mean); });
        float scale = 1.0f / sqrtf(squares * each + p.eps);
#pragma unroll
        for (int k = 0; k < NV; k++) {
            if (!there || Held::column(k) >= p.channels) continue;
            float weight[V], bias[V];
            load(weight, weights + Held::column(k));
            load(bias, biases + Held::column(k));
#pragma unroll
            for (int j = 0; j < V; j++) row.x[k][j] = fmaf((row.x[k][j] - mean) * scale, weight[j], bias[j]);
        }
        row.store_row(y + at, p.channels, there);
    }
}
