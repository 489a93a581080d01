// Computes          y[b,c] = sum over s of x[b,s,c]
// Shapes and layout x [B,S,C] of T, y [B,C] of U, contiguous
// Work split        sum_rows_spans: grid (spans of rows, channels, images), one partial sum per span and channel;
//                   sum_rows_total: one thread per value of y adds the spans
// Shared memory     one float per thread and value
// Numerics          f32, in an order that depends on the shape alone
// Specialised by    T, U, V (values per access, which divides C)
// Entries           sum_rows_spans, sum_rows_total
// Gradient          mean_rows_grad.cu
// Sources           none: the definition
#include "column_sums.cuh"
#include "params.cuh"
#include "types.cuh"

extern "C" __global__ void __launch_bounds__(256) sum_rows_spans(const __grid_constant__ SumRowsParams p) {
    u32 c = (blockIdx.y * blockDim.x + threadIdx.x) * V, image = blockIdx.z;
    u32 end = min(p.rows, (blockIdx.x + 1) * p.span);
    const T *x = static_cast<const T *>(p.x) + u64(image) * p.rows * p.channels + c;
    ColumnSums<V, 1> sums;
    bool there = c < p.channels;
    for (u32 row = blockIdx.x * p.span + threadIdx.y; there && row < end; row += blockDim.y) {
        float v[V];
        load(v, x + u64(row) * p.channels);
#pragma unroll
        for (int j = 0; j < V; j++) sums.sum[0][j] += v[j];
    }
    sums.write(static_cast<float *>(p.partial) + u64(image * gridDim.x + blockIdx.x) * p.channels, 0, c, there);
}

extern "C" __global__ void __launch_bounds__(256) sum_rows_total(const __grid_constant__ SumRowsParams p) {
    const float *partial = p.partial;
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.images * p.channels) return;
    u32 image = i / p.channels, c = i - image * p.channels;
    float sum = 0.0f;
    for (u32 span = 0; span < p.spans; span++) sum += partial[u64(image * p.spans + span) * p.channels + c];
    static_cast<U *>(p.y)[i] = from_f32<U>(sum);
}
