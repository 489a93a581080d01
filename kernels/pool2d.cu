// Computes          largest (MEAN 0) or mean (MEAN 1) value of each window; padding never counts
// Shapes and layout x [B,H,W,C], y [B,h,w,C] of T, contiguous
// Work split        one thread per V channels of an output pixel
// Shared memory     none
// Numerics          f32; the sum in the window's order, divided by the number of values inside the image
// Specialised by    T, V (values per access, which divides C), MEAN
// Entries           pool2d_forward
// Gradient          pool2d_grad.cu
// Sources           none: the definition
#include "params.cuh"
#include "types.cuh"

extern "C" __global__ void __launch_bounds__(256) pool2d_forward(const __grid_constant__ Pool2dParams p) {
    const T *x = p.x;
    T *y = p.y;
    u32 i = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (i >= p.count) return;
    u32 pixel = i / p.channels, c = i - pixel * p.channels;
    u32 line = pixel / p.out_width, ox = pixel - line * p.out_width;
    u32 image = line / p.out_height, oy = line - image * p.out_height;
    i32 top = i32(oy * p.stride) - i32(p.top), left = i32(ox * p.stride) - i32(p.left);
    i32 y0 = max(top, 0), y1 = min(top + i32(p.kernel_height), i32(p.height));
    i32 x0 = max(left, 0), x1 = min(left + i32(p.kernel_width), i32(p.width));
    float result[V];
#pragma unroll
    for (int j = 0; j < V; j++) result[j] = MEAN ? 0.0f : __int_as_float(0xff800000);
    const T *line_start = x + (u64(image * p.height + y0) * p.width + x0) * p.channels + c;
    for (i32 iy = y0; iy < y1; iy++, line_start += p.width * p.channels) {
        const T *at = line_start;
        for (i32 ix = x0; ix < x1; ix++, at += p.channels) {
            float v[V];
            load(v, at);
#pragma unroll
            for (int j = 0; j < V; j++) result[j] = MEAN ? result[j] + v[j] : fmaxf(result[j], v[j]);
        }
    }
    if constexpr (MEAN) {
        float each = 1.0f / float((y1 - y0) * (x1 - x0));
#pragma unroll
        for (int j = 0; j < V; j++) result[j] *= each;
    }
    store(y + i, result);
}
