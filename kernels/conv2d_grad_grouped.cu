// Computes:         the gradients of conv2d_grad.cu for a convolution in groups.
// Shapes and layout: as conv2d_grad.cu, weight and dweight [O,kh,kw,C/groups].
// Work split:       conv2d_grad_grouped_input: one thread per value of dx. conv2d_grad_grouped_weight: one warp per value of dweight, whose
//                   lanes take pixels in turn and add up in one order.
// Shared memory:    none
// Numerics:         f32, one rounding at the store.
// Specialised by:   T (of dz), W (of the weight, or of x), OUT (of the result)
// Entries:          conv2d_grad_grouped_input, conv2d_grad_grouped_weight
// Gradient:         none
// Sources:          none; depthwise layers of the face networks are small, and frozen wherever anything is trained.
#include "params.cuh"
#include "types.cuh"

extern "C" __global__ void __launch_bounds__(256) conv2d_grad_grouped_input(const __grid_constant__ Conv2dGradGroupedParams p) {
    const T *dz = p.dz;
    const W *weight = p.other;
    OUT *dx = p.out;
    const u32 item = blockIdx.x * 256 + threadIdx.x;
    if (item >= p.count) return;
    const u32 c = item % p.channels, pixel = item / p.channels, x = pixel % p.width, y = pixel / p.width % p.height, b = pixel / p.width / p.height;
    const u32 inputs = p.channels / p.groups, outputs = p.outputs / p.groups, group = c / inputs;
    float sum = 0.0f;
    for (u32 ky = 0; ky < p.kernel_height; ky++)
        for (u32 kx = 0; kx < p.kernel_width; kx++) {
            i32 oy = i32(y + p.top) - i32(ky), ox = i32(x + p.left) - i32(kx);
            if (oy < 0 || ox < 0 || oy % p.stride != 0 || ox % p.stride != 0) continue;
            oy /= i32(p.stride), ox /= i32(p.stride);
            if (oy >= p.out_height || ox >= p.out_width) continue;
            for (u32 o = group * outputs; o < (group + 1) * outputs; o++) {
                float z = to_f32(dz[((u64(b) * p.out_height + oy) * p.out_width + ox) * p.outputs + o]);
                sum = fmaf(z, to_f32(weight[((o * p.kernel_height + ky) * p.kernel_width + kx) * inputs + c % inputs]), sum);
            }
        }
    dx[item] = from_f32<OUT>(sum);
}

extern "C" __global__ void __launch_bounds__(256) conv2d_grad_grouped_weight(const __grid_constant__ Conv2dGradGroupedParams p) {
    const T *dz = p.dz;
    const W *image = p.other;
    OUT *dweight = p.out;
    const u32 item = (blockIdx.x * 256 + threadIdx.x) / 32, inputs = p.channels / p.groups;
    if (item >= p.count) return;
    const u32 tap = item / inputs % (p.kernel_height * p.kernel_width), o = item / inputs / (p.kernel_height * p.kernel_width);
    const u32 c = o / (p.outputs / p.groups) * inputs + item % inputs, ky = tap / p.kernel_width, kx = tap % p.kernel_width;
    float sum = 0.0f;
    for (u32 pixel = threadIdx.x % 32; pixel < p.pixels; pixel += 32) {
        u32 ox = pixel % p.out_width, oy = pixel / p.out_width % p.out_height, b = pixel / p.out_width / p.out_height;
        // negative ones become too large
        u32 y = oy * p.stride + ky - p.top, x = ox * p.stride + kx - p.left;
        if (y >= p.resized_height || x >= p.resized_width) continue;
        y = y * p.height / p.resized_height, x = x * p.width / p.resized_width;
        sum = fmaf(to_f32(dz[u64(pixel) * p.outputs + o]), to_f32(image[((u64(b) * p.height + y) * p.width + x) * p.channels + c]), sum);
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (threadIdx.x % 32 == 0) dweight[item] = from_f32<OUT>(sum);
}
