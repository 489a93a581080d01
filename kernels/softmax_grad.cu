// Computes          dx = y (dy - sum of y dy), over each row
// Shapes and layout y (the softmax), dy, dx [rows,C] of T, contiguous
// Work split        LANES threads hold a row in registers; a block walks over `rows_per_block` rows
// Shared memory     2 x LANES / 32 floats where a row takes more than a warp
// Numerics          f32
// Specialised by    T, V, NV, LANES (rows.cuh)
// Entries           softmax_grad_x
// Gradient          none
// Sources           none: the definition
#include "params.cuh"
#include "rows.cuh"

typedef Row<V, NV, LANES> Held;

extern "C" __global__ void __launch_bounds__(Held::THREADS) softmax_grad_x(const __grid_constant__ SoftmaxGradParams p) {
    __shared__ float parts[2][Held::PARTS];
    const T *y = p.y, *dy = p.dy;
    T *dx = p.dx;
    u32 end = min(p.rows, (blockIdx.x + 1) * p.rows_per_block);
    int turn = 0;
    Held row, change;
    for (u32 first = blockIdx.x * p.rows_per_block; first < end; first += Held::AT_ONCE, turn ^= 1) {
        u32 i = first + Held::place();
        bool there = i < end;
        u64 at = u64(i) * p.channels;
        row.load_row(y + at, p.channels, there);
        change.load_row(dy + at, p.channels, there);
        float mean = row.join<Sum>(p.channels, 0.0f, parts[turn], [&](float v, int k, int j) { return v * change.x[k][j]; });
        row.each([&](float v, int k, int j) { return v * (change.x[k][j] - mean); });
        row.store_row(dx + at, p.channels, there);
    }
}
