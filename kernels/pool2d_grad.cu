// Computes          dx of pool2d: of a largest value, dy to the first place of the window that has it; of a mean, dy / number of values
// Shapes and layout x, dx [B,H,W,C], dy [B,h,w,C] of T, contiguous
// Work split        one thread per V channels of a pixel of x, which looks at every window that covers it: nothing is added by two threads
// Shared memory     none
// Numerics          f32, windows in their order
// Specialised by    T, V (values per access, which divides C), MEAN
// Entries           pool2d_grad_x
// Gradient          none
// Sources           none: the definition
#include "params.cuh"
#include "types.cuh"

/// Part of a window that lies in the image.
struct Window {
    i32 y0, y1, x0, x1;

    Window(const Pool2dGradParams &p, u32 oy, u32 ox) {
        i32 top = i32(oy * p.stride) - i32(p.top), left = i32(ox * p.stride) - i32(p.left);
        y0 = max(top, 0), y1 = min(top + i32(p.kernel_height), i32(p.height));
        x0 = max(left, 0), x1 = min(left + i32(p.kernel_width), i32(p.width));
    }
};

/// The first window along an axis that covers `at`.
__forceinline__ u32 first_window(u32 at, u32 before, u32 kernel, u32 stride) {
    u32 end = at + before + 1;
    return end > kernel ? (end - kernel + stride - 1) / stride : 0;
}

/// 1 where the first largest value of the window is at (y, x), else 0.
__forceinline__ void is_largest(const Pool2dGradParams &p, const T *image, Window w, i32 y, i32 x, u32 c, float (&is)[V]) {
    float best[V];
#pragma unroll
    for (int j = 0; j < V; j++) best[j] = 0.0f, is[j] = 0.0f;
    for (i32 iy = w.y0; iy < w.y1; iy++) {
        for (i32 ix = w.x0; ix < w.x1; ix++) {
            float v[V];
            load(v, image + u64(iy * p.width + ix) * p.channels + c);
            bool first = iy == w.y0 && ix == w.x0, here = iy == y && ix == x;
#pragma unroll
            for (int j = 0; j < V; j++) {
                if (first || v[j] > best[j]) best[j] = v[j], is[j] = here ? 1.0f : 0.0f;
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(256) pool2d_grad_x(const __grid_constant__ Pool2dGradParams p) {
    u32 i = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (i >= p.count) return;
    u32 pixel = i / p.channels, c = i - pixel * p.channels;
    u32 line = pixel / p.width, x = pixel - line * p.width;
    u32 b = line / p.height, y = line - b * p.height;
    const T *image = static_cast<const T *>(p.x) + u64(b) * p.height * p.width * p.channels;
    const T *dy = static_cast<const T *>(p.dy) + u64(b) * p.out_height * p.out_width * p.channels + c;
    u32 y_end = min((y + p.top) / p.stride + 1, p.out_height), x_end = min((x + p.left) / p.stride + 1, p.out_width);
    float sum[V] = {};
    for (u32 oy = first_window(y, p.top, p.kernel_height, p.stride); oy < y_end; oy++) {
        for (u32 ox = first_window(x, p.left, p.kernel_width, p.stride); ox < x_end; ox++) {
            Window window(p, oy, ox);
            float v[V], part[V];
            load(v, dy + u64(oy * p.out_width + ox) * p.channels);
            if constexpr (MEAN) {
                float each = 1.0f / float((window.y1 - window.y0) * (window.x1 - window.x0));
#pragma unroll
                for (int j = 0; j < V; j++) part[j] = each;
            } else {
                is_largest(p, image, window, i32(y), i32(x), c, part);
            }
#pragma unroll
            for (int j = 0; j < V; j++) sum[j] = fmaf(v[j], part[j], sum[j]);
        }
    }
    store(static_cast<T *>(p.dx) + i, sum);
}
