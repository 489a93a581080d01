// Computes          y = [x, 0] along the last axis
// Shapes and layout x [rows,c], y [rows,C], any type, contiguous
// Work split        one thread per unit of y
// Shared memory     none
// Numerics          none: bytes move, and zero is the same bytes in every type
// Specialised by    UNIT (bytes of an access, which divides c and C)
// Entries           pad_channels_forward
// Gradient          the first c channels
// Sources           none: the definition
#include "copy.cuh"
#include "params.cuh"

extern "C" __global__ void __launch_bounds__(256) pad_channels_forward(const __grid_constant__ PadChannelsParams p) {
    typedef UnitOf<UNIT>::type Unit;
    const Unit *x = p.x;
    Unit *y = p.y;
    u32 i = this_thread();
    if (i >= p.rows * p.to) return;
    u32 row = i / p.to, column = i - row * p.to;
    Unit value = {};
    if (column < p.from) value = x[u64(row) * p.from + column];
    y[i] = value;
}
