// Computes          y = act(conv(x) + bias + row_bias + residual) for channel groups, without tensor cores
// Shapes and layout x [B,H,W,C], y [B,h,w,O], row_bias [B,O], residual [B,h,w,O] of T; weight [O,kh,kw,C/groups] of W;
//                   bias, slope [O] f32; contiguous. x may be resized to [RH,RW] by nearest neighbour while it is read
// Work split        conv2d_depthwise (one channel per group): a block takes `chunk` channels and a span of output pixels; threadIdx.x
//                   chooses V channels, threadIdx.y pixels. conv2d_grouped (any other grouping): one thread per output value
// Shared memory     depthwise: the weights of the chunk as f32, [taps][chunk]
// Numerics          f32 fma over the taps in their order, then bias, row bias, residual and activation, rounded once
// Specialised by    T, W, V (channels of a thread, which divides C), ACT
// Entries           conv2d_depthwise, conv2d_grouped
// Gradient          conv2d_grad.cu
// Sources           Howard et al. 2017, "MobileNets" (depthwise layers)
#include "act.cuh"
#include "params.cuh"
#include "types.cuh"

extern __shared__ float weights[];

/// An output pixel: its image, and where its window starts in the padded, resized input.
struct Pixel {
    u32 image;
    i32 top, left;

    Pixel(const Conv2dDirectParams &p, u32 pixel) {
        u32 line = pixel / p.out_width;
        image = line / p.out_height;
        top = i32((line - image * p.out_height) * p.stride) - i32(p.top);
        left = i32((pixel - line * p.out_width) * p.stride) - i32(p.left);
    }
};

/// f(tap, place of its first channel in x) for every tap of the window that lies in the image.
template <typename F> __forceinline__ void each_tap(const Conv2dDirectParams &p, Pixel at, F f) {
    for (u32 ky = 0; ky < p.kernel_height; ky++) {
        i32 iy = at.top + i32(ky);
        if (iy < 0 || iy >= i32(p.resized_height)) continue;
        u32 sy = p.resized_height == p.height ? iy : u32(iy) * p.height / p.resized_height;
        for (u32 kx = 0; kx < p.kernel_width; kx++) {
            i32 ix = at.left + i32(kx);
            if (ix < 0 || ix >= i32(p.resized_width)) continue;
            u32 sx = p.resized_width == p.width ? ix : u32(ix) * p.width / p.resized_width;
            f(ky * p.kernel_width + kx, (u64(at.image * p.height + sy) * p.width + sx) * p.channels);
        }
    }
}

/// Everything that follows the sums of N outputs from o on, and the store.
template <int N> __forceinline__ void finish(const Conv2dDirectParams &p, float (&sum)[N], u32 pixel, u32 image, u32 o) {
    float extra[N], slope[N];
    u64 at = u64(pixel) * p.outputs + o;
    auto add = [&]() {
#pragma unroll
        for (int j = 0; j < N; j++) sum[j] += extra[j];
    };
    if (p.bias) {
        load(extra, static_cast<const float *>(p.bias) + o);
        add();
    }
    if (p.row_bias) {
        load(extra, static_cast<const T *>(p.row_bias) + u64(image) * p.outputs + o);
        add();
    }
    if (p.residual) {
        load(extra, static_cast<const T *>(p.residual) + at);
        add();
    }
    if constexpr (ACT == ACT_PRELU) load(slope, static_cast<const float *>(p.slope) + o);
#pragma unroll
    for (int j = 0; j < N; j++) sum[j] = activate<ACT>(sum[j], ACT == ACT_PRELU ? slope[j] : p.leak);
    store(static_cast<T *>(p.y) + at, sum);
}

extern "C" __global__ void __launch_bounds__(256) conv2d_depthwise(const __grid_constant__ Conv2dDirectParams p) {
    const T *x = p.x;
    const W *weight = p.weight;
    u32 taps = p.kernel_height * p.kernel_width, first = blockIdx.y * p.chunk, chunk = min(p.chunk, p.channels - first);
    u32 thread = threadIdx.y * blockDim.x + threadIdx.x;
    for (u32 i = thread; i < chunk * taps; i += blockDim.x * blockDim.y) {
        weights[i % taps * p.chunk + i / taps] = to_f32(weight[u64(first) * taps + i]);
    }
    __syncthreads();
    u32 end = min(p.pixels, (blockIdx.x + 1) * p.span);
    for (u32 c = threadIdx.x * V; c < chunk; c += blockDim.x * V) {
        for (u32 pixel = blockIdx.x * p.span + threadIdx.y; pixel < end; pixel += blockDim.y) {
            float sum[V] = {};
            Pixel at(p, pixel);
            each_tap(p, at, [&](u32 tap, u64 from) {
                float v[V];
                load(v, x + from + first + c);
#pragma unroll
                for (int j = 0; j < V; j++) sum[j] = fmaf(v[j], weights[tap * p.chunk + c + j], sum[j]);
            });
            finish(p, sum, pixel, at.image, first + c);
        }
    }
}

extern "C" __global__ void __launch_bounds__(256) conv2d_grouped(const __grid_constant__ Conv2dDirectParams p) {
    const T *x = p.x;
    const W *weight = p.weight;
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.pixels * p.outputs) return;
    u32 pixel = i / p.outputs, o = i - pixel * p.outputs;
    u32 width = p.channels / p.groups, group = o / (p.outputs / p.groups), taps = p.kernel_height * p.kernel_width;
    float sum[1] = {0.0f};
    Pixel at(p, pixel);
    each_tap(p, at, [&](u32 tap, u64 from) {
        const T *v = x + from + group * width;
        const W *w = weight + (u64(o) * taps + tap) * width;
        for (u32 c = 0; c < width; c++) sum[0] = fmaf(to_f32(v[c]), to_f32(w[c]), sum[0]);
    });
    finish(p, sum, pixel, at.image, o);
}
