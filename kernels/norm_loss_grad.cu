// Computes          dx = dy x / |x| of each row, 0 where |x| = 0
// Shapes and layout x, dx [rows,C] of T, contiguous; dy one f32
// Work split        LANES threads hold a row in registers; a block walks over `rows_per_block` rows
// Shared memory     2 x LANES / 32 floats where a row takes more than a warp
// Numerics          f32
// Specialised by    T, V, NV, LANES (rows.cuh)
// Entries           norm_loss_grad_x
// Gradient          none
// Sources           none: the definition
#include "params.cuh"
#include "rows.cuh"

typedef Row<V, NV, LANES> Held;

extern "C" __global__ void __launch_bounds__(Held::THREADS) norm_loss_grad_x(const __grid_constant__ NormLossGradParams p) {
    __shared__ float parts[2][Held::PARTS];
    const T *x = p.x;
    T *dx = p.dx;
    float dy = static_cast<const float *>(p.dy)[0];
    u32 end = min(p.rows, (blockIdx.x + 1) * p.rows_per_block);
    int turn = 0;
    Held row;
    for (u32 first = blockIdx.x * p.rows_per_block; first < end; first += Held::AT_ONCE, turn ^= 1) {
        u32 i = first + Held::place();
        bool there = i < end;
        u64 at = u64(i) * p.channels;
        row.load_row(x + at, p.channels, there);
        float squares = row.join<Sum>(p.channels, 0.0f, parts[turn], [](float v, int, int) { return v * v; });
        float factor = squares > 0.0f ? dy / sqrtf(squares) : 0.0f;
        row.each([=](float v, int, int) { return v * factor; });
        row.store_row(dx + at, p.channels, there);
    }
}
