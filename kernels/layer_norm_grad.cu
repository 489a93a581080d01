// Computes          with n = (x - mean) / sqrt(variance + eps) and g = dy weight of each row:
//                   dx = (g - mean of g - n mean of g n) / sqrt(variance + eps);  dweight = sum of dy n,  dbias = sum of dy over the rows
// Shapes and layout x, dy, dx [rows,C] of T; weight, dweight, dbias [C] f32; contiguous
// Work split        layer_norm_grad_x: LANES threads hold a row in registers, and write its mean and 1 / sqrt(variance + eps) to
//                   workspace if the parameters' gradients are wanted; layer_norm_grad_spans: grid (spans of rows, channels) of partial
//                   sums; layer_norm_grad_total: one thread per channel adds the spans
// Shared memory     x: weight and the sums of rows wider than a warp; spans: one float per thread and value
// Numerics          f32; the mean first, then squared distances from it; sums in an order that depends on the shape alone
// Specialised by    T, V, NV, LANES (rows.cuh)
// Entries           layer_norm_grad_x, layer_norm_grad_spans, layer_norm_grad_total
// Gradient          none
// Sources           as layer_norm.cu
#include "column_sums.cuh"
#include "params.cuh"
#include "rows.cuh"

typedef Row<V, NV, LANES> Held;

extern __shared__ float4 shared_floats[];

extern "C" __global__ void __launch_bounds__(Held::THREADS) layer_norm_grad_x(const __grid_constant__ LayerNormGradParams p) {
    __shared__ float parts[2][4][Held::PARTS];
    float *weights = reinterpret_cast<float *>(shared_floats);
    for (u32 c = threadIdx.x; c < p.channels; c += blockDim.x) weights[c] = static_cast<const float *>(p.weight)[c];
    __syncthreads();

    const T *x = p.x, *dy = p.dy;
    T *dx = p.dx;
    float2 *statistics = p.statistics;
    float each = 1.0f / float(p.channels);
    u32 end = min(p.rows, (blockIdx.x + 1) * p.rows_per_block);
    int turn = 0;
    Held row, change;
    for (u32 first = blockIdx.x * p.rows_per_block; first < end; first += Held::AT_ONCE, turn ^= 1) {
        u32 i = first + Held::place();
        bool there = i < end;
        u64 at = u64(i) * p.channels;
        row.load_row(x + at, p.channels, there);
        change.load_row(dy + at, p.channels, there);
#pragma unroll
        for (int k = 0; k < NV; k++) {
            if (Held::column(k) >= p.channels) continue;
            float weight[V];
            load(weight, weights + Held::column(k));
#pragma unroll
            for (int j = 0; j < V; j++) change.x[k][j] *= weight[j];
        }
        float mean = row.join<Sum>(p.channels, 0.0f, parts[turn][0], [](float v, int, int) { return v; }) * each;
        float squares = row.join<Sum>(p.channels, 0.0f, parts[turn][1], [=](float v, int, int) { return (v - mean) * (v - mean); });
        float scale = 1.0f / sqrtf(squares * each + p.eps);
        row.each([=](float v, int, int) { return (v - mean) * scale; });
        float plain = change.join<Sum>(p.channels, 0.0f, parts[turn][2], [](float g, int, int) { return g; }) * each;
        float along = change.join<Sum>(p.channels, 0.0f, parts[turn][3], [&](float g, int k, int j) { return g * row.x[k][j]; }) * each;
        row.each([&](float n, int k, int j) { return scale * (change.x[k][j] - plain - n * along); });
        row.store_row(dx + at, p.channels, there);
        if (p.statistics && there && Held::lane() == 0) statistics[i] = make_float2(mean, scale);
    }
}

extern "C" __global__ void __launch_bounds__(256) layer_norm_grad_spans(const __grid_constant__ LayerNormGradParams p) {
    u32 c = (blockIdx.y * blockDim.x + threadIdx.x) * V;
    u32 end = min(p.rows, (blockIdx.x + 1) * p.span);
    const T *x = p.x, *dy = p.dy;
    const float2 *statistics = p.statistics;
    ColumnSums<V, 2> sums;
    bool there = c < p.channels;
    for (u32 row = blockIdx.x * p.span + threadIdx.y; there && row < end; row += blockDim.y) {
        float2 of_row = statistics[row];
        float v[V], d[V];
        load(v, x + u64(row) * p.channels + c);
        load(d, dy + u64(row) * p.channels + c);
#pragma unroll
        for (int j = 0; j < V; j++) {
            sums.sum[0][j] = fmaf(d[j], (v[j] - of_row.x) * of_row.y, sums.sum[0][j]);
            sums.sum[1][j] += d[j];
        }
    }
    sums.write(static_cast<float *>(p.partial) + u64(blockIdx.x) * 2 * p.channels, p.channels, c, there);
}

extern "C" __global__ void __launch_bounds__(256) layer_norm_grad_total(const __grid_constant__ LayerNormGradParams p) {
    const float *partial = p.partial;
    u32 c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= p.channels) return;
    float weight = 0.0f, bias = 0.0f;
    for (u32 span = 0; span < p.spans; span++) {
        weight += partial[u64(span) * 2 * p.channels + c];
        bias += partial[(u64(span) * 2 + 1) * p.channels + c];
    }
    static_cast<float *>(p.dweight)[c] = weight;
    static_cast<float *>(p.dbias)[c] = bias;
}
