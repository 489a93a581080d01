// Computes          y = x in another storage type
// Shapes and layout x of T, y of U, one shape, contiguous
// Work split        one thread per V values
// Shared memory     none
// Numerics          to nearest even; beyond f16's range: infinite
// Specialised by    T, U, V (values per access)
// Entries           cast_forward
// Gradient          a cast the other way
// Sources           none: the definition
#include "params.cuh"
#include "types.cuh"

extern "C" __global__ void __launch_bounds__(256) cast_forward(const __grid_constant__ CastParams p) {
    const T *x = p.x;
    U *y = p.y;
    u32 i = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (i >= p.count) return;
    float v[V];
    load_some(v, x + i, p.count - i);
    store_some(y + i, v, p.count - i);
}
