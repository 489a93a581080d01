// Computes          dx[:, start .. start + n, :] = dy, zero elsewhere
// Shapes and layout dy [B,n,C], dx [B,rows,C], any type, contiguous
// Work split        one thread per unit of dx
// Shared memory     none
// Numerics          none: bytes move, and zero is the same bytes in every type
// Specialised by    UNIT (bytes of an access, which divides a row)
// Entries           select_rows_grad_x
// Gradient          none
// Sources           none: the definition
#include "copy.cuh"
#include "params.cuh"

extern "C" __global__ void __launch_bounds__(256) select_rows_grad_x(const __grid_constant__ SelectRowsGradParams p) {
    typedef UnitOf<UNIT>::type Unit;
    const Unit *dy = p.dy;
    Unit *dx = p.dx;
    u32 i = this_thread();
    if (i >= p.images * p.image) return;
    u32 image = i / p.image, at = i - image * p.image;
    Unit value = {};
    if (at >= p.start && at - p.start < p.taken) value = dy[u64(image) * p.taken + (at - p.start)];
    dx[i] = value;
}
