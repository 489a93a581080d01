// Computes          dx = dy[.., start .. start + width]
// Shapes and layout dy [rows,C], dx [rows,width], any type, contiguous
// Work split        one thread per unit of dx
// Shared memory     none
// Numerics          none: bytes move
// Specialised by    UNIT (bytes of an access, which divides C, start and width)
// Entries           concat_grad_x
// Gradient          none
// Sources           none: the definition
#include "copy.cuh"
#include "params.cuh"

extern "C" __global__ void __launch_bounds__(256) concat_grad_x(const __grid_constant__ ConcatGradParams p) {
    typedef UnitOf<UNIT>::type Unit;
    const Unit *dy = p.dy;
    Unit *dx = p.dx;
    u32 i = this_thread();
    if (i >= p.rows * p.width) return;
    u32 row = i / p.width;
    dx[i] = dy[u64(row) * p.pitch + p.start + (i - row * p.width)];
}
