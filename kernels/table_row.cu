// Computes          y_i[b] = table_i[index] for every b and every table; NaN where the index is outside
// Shapes and layout tables [N,M_i] f32, index [1] i32, y_i [B,M_i]
// Work split        one thread per value of y_i, gridDim.y tables side by side
// Shared memory     none
// Numerics          one rounding to U. The index lives on the device, so one captured graph serves every step
// Specialised by    U
// Entries           table_row_forward
// Gradient          none: tables are constants of a schedule
// Sources           none: the definition
#include "params.cuh"
#include "types.cuh"

extern "C" __global__ void __launch_bounds__(256) table_row_forward(const __grid_constant__ TableRowParams p) {
    const float *table = p.tables[blockIdx.y];
    const i32 *index = p.index;
    U *y = p.y[blockIdx.y];
    u32 width = p.widths[blockIdx.y], i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.batch * width) return;
    i32 row = index[0];
    bool inside = row >= 0 && row < i32(p.rows);
    y[i] = from_f32<U>(inside ? table[u64(row) * width + i % width] : __int_as_float(0x7fc00000));
}
