// Computes          y[b] = table[index] for every b; NaN where the index is outside the table
// Shapes and layout table [N,M] f32, index [1] i32, y [B,M] f32
// Work split        one thread per value of y
// Shared memory     none
// Numerics          none: values are copied. The index lives on the device, so one captured graph serves every step
// Specialised by    nothing
// Entries           table_row_forward
// Gradient          none: tables are constants of a schedule
#include "params.cuh"
#include "types.cuh"

extern "C" __global__ void __launch_bounds__(256) table_row_forward(const __grid_constant__ TableRowParams p) {
    const float *table = p.table;
    const i32 *index = p.index;
    float *y = p.y;
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.batch * p.width) return;
    i32 row = index[0];
    bool inside = row >= 0 && row < i32(p.rows);
    y[i] = inside ? table[u64(row) * p.width + i % p.width] : __int_as_float(0x7fc00000);
}
