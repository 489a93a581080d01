// Computes          y = sum over the rows of |x|
// Shapes and layout x [rows,C] of T, contiguous; y one f32
// Work split        norm_loss_rows: LANES threads hold a row in registers and write its length to workspace;
//                   norm_loss_total: one block adds the lengths
// Shared memory     eight floats; 2 x LANES / 32 more where a row takes more than a warp
// Numerics          f32, in an order that depends on the shape alone
// Specialised by    T, V, NV, LANES (rows.cuh)
// Entries           norm_loss_rows, norm_loss_total
// Gradient          norm_loss_grad.cu
// Sources           none: the definition
#include "block_sum.cuh"
#include "params.cuh"
#include "rows.cuh"

typedef Row<V, NV, LANES> Held;

extern "C" __global__ void __launch_bounds__(Held::THREADS) norm_loss_rows(const __grid_constant__ NormLossParams p) {
    __shared__ float parts[2][Held::PARTS];
    const T *x = p.x;
    u32 end = min(p.rows, (blockIdx.x + 1) * p.rows_per_block);
    int turn = 0;
    Held row;
    for (u32 first = blockIdx.x * p.rows_per_block; first < end; first += Held::AT_ONCE, turn ^= 1) {
        u32 i = first + Held::place();
        bool there = i < end;
        row.load_row(x + u64(i) * p.channels, p.channels, there);
        float squares = row.join<Sum>(p.channels, 0.0f, parts[turn], [](float v, int, int) { return v * v; });
        if (there && Held::lane() == 0) static_cast<float *>(p.lengths)[i] = sqrtf(squares);
    }
}

extern "C" __global__ void __launch_bounds__(256) norm_loss_total(const __grid_constant__ NormLossParams p) {
    float sum = sum_of(p.lengths, p.rows);
    if (threadIdx.x == 0) static_cast<float *>(p.y)[0] = sum;
}
