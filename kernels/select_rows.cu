// Computes          y = x[:, start .. start + count, :]
// Shapes and layout x [B,S,C], y [B,count,C], any type, contiguous
// Work split        one thread per unit of y
// Shared memory     none
// Numerics          none: bytes move
// Specialised by    UNIT (bytes of an access, which divides a row)
// Entries           select_rows_forward
// Gradient          select_rows_grad.cu
// Sources           none: the definition
#include "copy.cuh"
#include "params.cuh"

extern "C" __global__ void __launch_bounds__(256) select_rows_forward(const __grid_constant__ SelectRowsParams p) {
    typedef UnitOf<UNIT>::type Unit;
    const Unit *x = p.x;
    Unit *y = p.y;
    u32 i = this_thread();
    if (i >= p.images * p.taken) return;
    u32 image = i / p.taken;
    y[i] = x[u64(image) * p.image + p.start + (i - image * p.taken)];
}
