// Computes          y = exp(x - max) / sum of exp(x - max), over each row
// Shapes and layout x, y [rows,C] of T, contiguous
// Work split        LANES threads hold a row in registers; a block walks over `rows_per_block` rows
// Shared memory     4 x LANES / 32 floats where a row takes more than a warp
// Numerics          f32, the largest value subtracted first
// Specialised by    T, V, NV, LANES (rows.cuh)
// Entries           softmax_forward
// Gradient          softmax_grad.cu
// Sources           none: the definition
#include "act.cuh"
#include "params.cuh"
#include "rows.cuh"

typedef Row<V, NV, LANES> Held;

extern "C" __global__ void __launch_bounds__(Held::THREADS) softmax_forward(const __grid_constant__ SoftmaxParams p) {
    __shared__ float parts[2][2][Held::PARTS];
    const T *x = p.x;
    T *y = p.y;
    u32 end = min(p.rows, (blockIdx.x + 1) * p.rows_per_block);
    int turn = 0;
    Held row;
    for (u32 first = blockIdx.x * p.rows_per_block; first < end; first += Held::AT_ONCE, turn ^= 1) {
        u32 i = first + Held::place();
        bool there = i < end;
        u64 at = u64(i) * p.channels;
        row.load_row(x + at, p.channels, there);
        float top = row.join<Max>(p.channels, __int_as_float(0xff800000), parts[turn][0], [](float v, int, int) { return v; });
        row.each([=](float v, int, int) { return exp_approx(v - top); });
        float total = row.join<Sum>(p.channels, 0.0f, parts[turn][1], [](float v, int, int) { return v; });
        float scale = 1.0f / total;
        row.each([=](float v, int, int) { return v * scale; });
        row.store_row(y + at, p.channels, there);
    }
}
