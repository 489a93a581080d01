// Computes          y = [x, x, ..] along the first axis
// Shapes and layout x [N], y [times,N], any type, contiguous
// Work split        one thread per unit of x, which is read once and written `times` times
// Shared memory     none
// Numerics          none: bytes move
// Specialised by    UNIT (bytes of an access, which divides x)
// Entries           repeat_forward
// Gradient          the sum over the copies
// Sources           none: the definition
#include "copy.cuh"
#include "params.cuh"

extern "C" __global__ void __launch_bounds__(256) repeat_forward(const __grid_constant__ RepeatParams p) {
    typedef UnitOf<UNIT>::type Unit;
    const Unit *x = p.x;
    Unit *y = p.y;
    u32 i = this_thread();
    if (i >= p.count) return;
    Unit value = x[i];
    for (u32 k = 0; k < p.times; k++) y[u64(k) * p.count + i] = value;
}
