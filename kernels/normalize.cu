// Computes          y = x / max(|x|, eps), over each row
// Shapes and layout x, y [rows,C] of T, contiguous
// Work split        LANES threads hold a row in registers; a block walks over `rows_per_block` rows
// Shared memory     2 x LANES / 32 floats where a row takes more than a warp
// Numerics          f32 sum of squares
// Specialised by    T, V, NV, LANES (rows.cuh)
// Entries           normalize_forward
// Gradient          normalize_grad.cu
// Sources           none: the definition
#include "params.cuh"
#include "rows.cuh"

typedef Row<V, NV, LANES> Held;

extern "C" __global__ void __launch_bounds__(Held::THREADS) normalize_forward(const __grid_constant__ NormalizeParams p) {
    __shared__ float parts[2][Held::PARTS];
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
        float squares = row.join<Sum>(p.channels, 0.0f, parts[turn], [](float v, int, int) { return v * v; });
        float scale = 1.0f / fmaxf(sqrtf(squares), p.eps);
        row.each([=](float v, int, int) { return v * scale; });
        row.store_row(y + at, p.channels, there);
    }
}
