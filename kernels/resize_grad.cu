// Computes          dx[y,x] = sum of dy over the pixels that show (y, x) after a nearest-neighbour resize
// Shapes and layout dy [B,H,W,C], dx [B,h,w,C] of T, contiguous
// Work split        one thread per V channels of a pixel of dx: it gathers, so nothing is added by two threads
// Shared memory     none
// Numerics          f32, rows first
// Specialised by    T, V (values per access, which divides C)
// Entries           resize_grad_x
// Gradient          none
// Sources           none: the definition
#include "params.cuh"
#include "types.cuh"

/// First place of `large` that shows place `at` of `small` or a later one.
__forceinline__ u32 first_showing(u32 at, u32 small, u32 large) { return (at * large + small - 1) / small; }

extern "C" __global__ void __launch_bounds__(256) resize_grad_x(const __grid_constant__ ResizeGradParams p) {
    const T *dy = p.dy;
    u32 i = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (i >= p.count) return;
    u32 pixel = i / p.channels, c = i - pixel * p.channels;
    u32 line = pixel / p.width, x = pixel - line * p.width;
    u32 image = line / p.height, y = line - image * p.height;
    u32 y1 = first_showing(y + 1, p.height, p.large_height), x1 = first_showing(x + 1, p.width, p.large_width);
    float sum[V] = {};
    for (u32 iy = first_showing(y, p.height, p.large_height); iy < y1; iy++) {
        for (u32 ix = first_showing(x, p.width, p.large_width); ix < x1; ix++) {
            float v[V];
            load(v, dy + (u64(image * p.large_height + iy) * p.large_width + ix) * p.channels + c);
#pragma unroll
            for (int j = 0; j < V; j++) sum[j] += v[j];
        }
    }
    store(static_cast<T *>(p.dx) + i, sum);
}
