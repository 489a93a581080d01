// Computes          dx = (dy - y (y . dy)) / |x| with y = x / |x|, or dy / eps where |x| <= eps, over each row
// Shapes and layout x, dy, dx [rows,C] of T, contiguous
// Work split        LANES threads hold a row in registers; a block walks over `rows_per_block` rows
// Shared memory     4 x LANES / 32 floats where a row takes more than a warp
// Numerics          f32; y by division, so that a row of one value has the gradient 0 exactly
// Specialised by    T, V, NV, LANES (rows.cuh)
// Entries           normalize_grad_x
// Gradient          none
// Sources           none: the definition
#include "params.cuh"
#include "rows.cuh"

typedef Row<V, NV, LANES> Held;

extern "C" __global__ void __launch_bounds__(Held::THREADS) normalize_grad_x(const __grid_constant__ NormalizeGradParams p) {
    __shared__ float parts[2][2][Held::PARTS];
    const T *x = p.x, *dy = p.dy;
    T *dx = p.dx;
    u32 end = min(p.rows, (blockIdx.x + 1) * p.rows_per_block);
    int turn = 0;
    Held row, change;
    for (u32 first = blockIdx.x * p.rows_per_block; first < end; first += Held::AT_ONCE, turn ^= 1) {
        u32 i = first + Held::place();
        bool there = i < end;
        u64 at = u64(i) * p.channels;
        row.load_row(x + at, p.channels, there);
        change.load_row(dy + at, p.channels, there);
        float squares = row.join<Sum>(p.channels, 0.0f, parts[turn][0], [](float v, int, int) { return v * v; });
        float length = sqrtf(squares);
        bool tiny = length <= p.eps;
        float divisor = tiny ? p.eps : length;
        row.each([=](float v, int, int) { return tiny ? 0.0f : v / divisor; });
        float along = row.join<Sum>(p.channels, 0.0f, parts[turn][1], [&](float v, int k, int j) { return v * change.x[k][j]; });
        row.each([&](float v, int k, int j) { return fmaf(-v, along, change.x[k][j]) / divisor; });
        row.store_row(dx + at, p.channels, there);
    }
}
