// Computes          dtable[index] = sum of dy over its rows, 0 elsewhere, and everywhere if the index is outside
// Shapes and layout dy [B,M] f32, index [1] i32, dtable [rows,M] f32, contiguous
// Work split        one thread per value of dtable
// Shared memory     none
// Numerics          f32, rows in their order; the index lives on the device
// Specialised by    nothing
// Entries           table_row_grad_table
// Gradient          none
// Sources           none: the definition
#include "params.cuh"
#include "types.cuh"

extern "C" __global__ void __launch_bounds__(256) table_row_grad_table(const __grid_constant__ TableRowGradParams p) {
    const float *dy = p.dy;
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.rows * p.width) return;
    u32 row = i / p.width, column = i - row * p.width;
    float sum = 0.0f;
    if (i32(row) == static_cast<const i32 *>(p.index)[0]) {
        for (u32 b = 0; b < p.batch; b++) sum += dy[b * p.width + column];
    }
    static_cast<float *>(p.dtable)[i] = sum;
}
