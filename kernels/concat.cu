// Computes          y = [x0, x1, ..] along the last axis
// Shapes and layout inputs [rows,Ci], y [rows,sum of Ci], any type, contiguous
// Work split        blockIdx.y chooses the input, one thread moves one unit of it
// Shared memory     none
// Numerics          none: bytes move
// Specialised by    UNIT (bytes of an access, which divides every row)
// Entries           concat_forward (four inputs at most; more take further launches)
// Gradient          concat_grad.cu
// Sources           none: the definition
#include "copy.cuh"
#include "params.cuh"

extern "C" __global__ void __launch_bounds__(256) concat_forward(const __grid_constant__ ConcatParams p) {
    typedef UnitOf<UNIT>::type Unit;
    u32 which = blockIdx.y;
    const Unit *x = which == 0 ? p.x0 : which == 1 ? p.x1 : which == 2 ? p.x2 : p.x3;
    u32 width = which == 0 ? p.width0 : which == 1 ? p.width1 : which == 2 ? p.width2 : p.width3;
    u32 start = p.start + (which > 0 ? p.width0 : 0) + (which > 1 ? p.width1 : 0) + (which > 2 ? p.width2 : 0);
    Unit *y = p.y;
    u32 i = this_thread();
    if (i >= p.rows * width) return;
    u32 row = i / width;
    y[u64(row) * p.width + start + (i - row * width)] = x[i];
}
