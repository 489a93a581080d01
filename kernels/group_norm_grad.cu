// Computes          with n = (x - mean) / sqrt(variance + eps), z = n weight + bias and g = dy silu'(z) (or dy) of each image and group:
//                   dx = (g weight - mean of g weight - n mean of g weight n) / sqrt(variance + eps)
//                   dweight = sum of g n,  dbias = sum of g over images and pixels
// Shapes and layout x, dy, dx [B,P,C] of T; weight, bias, dweight, dbias [C] f32; blocks as in group_norm.cu
// Work split        on the grid (spans of pixels, chunks of channels, images), after group_norm_statistics (silu'(z) needs the statistics, so
//                   that no pass over x can make both them and the sums):
//                   group_norm_grad_sums: sums of g and g n per channel and, weighted, per group, of each span, written to workspace;
//                   group_norm_grad_x: merges the spans of its groups, then dx of its own pixels;
//                   group_norm_grad_total: one thread per channel adds images and spans for dweight and dbias
// Shared memory     floats: five per channel, five per group; sums: two per channel and row of threads.
//                   Values of channel c lie at `place(c)`, so that neighbouring threads use neighbouring banks
// Numerics          f32, relative to the groups' origins; statistics are merged as in group_norm.cu, sums are added in an order that depends on the shape alone
// Specialised by    T, V (channels of a thread, which divides the chunk), SILU, PARAMETERS (write the sums per channel too)
// Entries           group_norm_grad_sums, group_norm_grad_x, group_norm_grad_total
// Gradient          none
// Sources           Wu, He 2018, "Group Normalization"
#include "act.cuh"
#include "group_norm.cuh"
#include "params.cuh"
#include "reduce.cuh"
#include "types.cuh"

extern __shared__ float4 shared_floats[];

/// Shared memory of a block.
struct Shared {
    float *origin, *mean, *scale, *weight, *bias; // of each channel
    float *origins, *groups, *totals;             // of each group; the last two pairs
    float *sums;                                  // [rows of threads][chunk], twice

    explicit Shared(const GroupNormGradParams &p) {
        origin = reinterpret_cast<float *>(shared_floats);
        mean = origin + p.chunk;
        scale = mean + p.chunk;
        weight = scale + p.chunk;
        bias = weight + p.chunk;
        origins = bias + p.chunk;
        groups = origins + p.chunk / p.width;
        totals = groups + p.chunk / p.width * 2;
        sums = totals + p.chunk / p.width * 2;
    }
};

__forceinline__ u32 place(const GroupNormGradParams &p, u32 c) { return c % V * (p.chunk / V) + c / V; }

__forceinline__ void load_placed(const GroupNormGradParams &p, float (&x)[V], const float *values, u32 c) {
#pragma unroll
    for (int j = 0; j < V; j++) x[j] = values[j * (p.chunk / V) + c / V];
}

/// Statistics and parameters of each channel of the block.
__forceinline__ void prepare(const GroupNormGradParams &p, const Shared &s, u32 first) {
    const T *image = static_cast<const T *>(p.x) + u64(blockIdx.z) * p.pixels * p.channels + first;
    set_origins([&](u32 group) { return image + group * p.width; }, p.chunk / p.width, s.origins);
    Place at = {blockIdx.z, first / p.width, p.channels / p.width, gridDim.x, p.span, p.pixels, p.width};
    merge_spans(at, p.partial, p.eps, p.chunk / p.width, s.groups);
    for (u32 c = thread_of_block(); c < p.chunk; c += threads_of_block()) {
        u32 to = place(p, c);
        s.origin[to] = s.origins[c / p.width];
        s.mean[to] = s.groups[c / p.width * 2];
        s.scale[to] = s.groups[c / p.width * 2 + 1];
        s.weight[to] = static_cast<const float *>(p.weight)[first + c];
        s.bias[to] = static_cast<const float *>(p.bias)[first + c];
    }
    __syncthreads();
}

/// n and g of V channels of a pixel, in place of x and dy.
struct Channels {
    float origin[V], mean[V], scale[V], weight[V], bias[V];

    Channels(const GroupNormGradParams &p, const Shared &s, u32 c) {
        load_placed(p, origin, s.origin, c);
        load_placed(p, mean, s.mean, c);
        load_placed(p, scale, s.scale, c);
        load_placed(p, weight, s.weight, c);
        load_placed(p, bias, s.bias, c);
    }

    __forceinline__ void apply(float (&x)[V], float (&dy)[V]) const {
#pragma unroll
        for (int j = 0; j < V; j++) {
            x[j] = (x[j] - origin[j] - mean[j]) * scale[j];
            if constexpr (SILU) dy[j] *= activate_grad<ACT_SILU>(fmaf(x[j], weight[j], bias[j]));
        }
    }
};

extern "C" __global__ void __launch_bounds__(384) group_norm_grad_sums(const __grid_constant__ GroupNormGradParams p) {
    Shared s(p);
    float *of_g = s.sums, *of_gn = s.sums + blockDim.y * p.chunk;
    u32 start = blockIdx.x * p.span, span = min(p.span, p.pixels - start), first = blockIdx.y * p.chunk;
    prepare(p, s, first);
    u64 at = (u64(blockIdx.z) * p.pixels + start) * p.channels + first;
    const T *x = static_cast<const T *>(p.x) + at, *dy = static_cast<const T *>(p.dy) + at;

    for (u32 c = threadIdx.x * V; c < p.chunk; c += blockDim.x * V) {
        Channels channels(p, s, c);
        float g_sum[V] = {}, gn_sum[V] = {};
#pragma unroll 2
        for (u32 pixel = threadIdx.y; pixel < span; pixel += blockDim.y) {
            float n[V], g[V];
            load(n, x + u64(pixel) * p.channels + c);
            load(g, dy + u64(pixel) * p.channels + c);
            channels.apply(n, g);
#pragma unroll
            for (int j = 0; j < V; j++) {
                g_sum[j] += g[j];
                gn_sum[j] = fmaf(g[j], n[j], gn_sum[j]);
            }
        }
#pragma unroll
        for (int j = 0; j < V; j++) {
            u32 to = threadIdx.y * p.chunk + j * (p.chunk / V) + c / V;
            of_g[to] = g_sum[j];
            of_gn[to] = gn_sum[j];
        }
    }
    __syncthreads();

    for (u32 c = thread_of_block(); c < p.chunk; c += threads_of_block()) {
        u32 from = place(p, c);
        float g = of_g[from], gn = of_gn[from];
        for (u32 row = 1; row < blockDim.y; row++) {
            g += of_g[row * p.chunk + from];
            gn += of_gn[row * p.chunk + from];
        }
        if constexpr (PARAMETERS) {
            float *sums = static_cast<float *>(p.channel_sums) + u64(blockIdx.z * gridDim.x + blockIdx.x) * 2 * p.channels + first + c;
            sums[0] = gn;
            sums[p.channels] = g;
        }
        of_g[from] = g * s.weight[from];
        of_gn[from] = gn * s.weight[from];
    }
    __syncthreads();

    for (u32 group = thread_of_block(); group < p.chunk / p.width; group += threads_of_block()) {
        float plain = 0.0f, along = 0.0f;
        for (u32 c = group * p.width; c < (group + 1) * p.width; c++) {
            plain += of_g[place(p, c)];
            along += of_gn[place(p, c)];
        }
        u32 which = blockIdx.z * (p.channels / p.width) + first / p.width + group;
        static_cast<float2 *>(p.group_sums)[u64(which) * gridDim.x + blockIdx.x] = make_float2(plain, along);
    }
}

/// Means of g weight and of g weight n of each group, as pairs: a warp adds the spans of a group, each lane some, then the lanes.
__forceinline__ void add_spans(const GroupNormGradParams &p, const Shared &s, u32 first) {
    u32 lane = thread_of_block() % 32;
    float each = 1.0f / (float(p.pixels) * float(p.width));
    for (u32 group = thread_of_block() / 32; group < p.chunk / p.width; group += threads_of_block() / 32) {
        u32 which = blockIdx.z * (p.channels / p.width) + first / p.width + group;
        const float2 *sums = static_cast<const float2 *>(p.group_sums) + u64(which) * gridDim.x;
        float plain = 0.0f, along = 0.0f;
        for (u32 i = lane; i < gridDim.x; i += 32) {
            plain += sums[i].x;
            along += sums[i].y;
        }
        plain = over_lanes<Sum, 32>(plain);
        along = over_lanes<Sum, 32>(along);
        if (lane == 0) {
            s.totals[group * 2] = plain * each;
            s.totals[group * 2 + 1] = along * each;
        }
    }
    __syncthreads();
}

extern "C" __global__ void __launch_bounds__(384) group_norm_grad_x(const __grid_constant__ GroupNormGradParams p) {
    Shared s(p);
    u32 start = blockIdx.x * p.span, span = min(p.span, p.pixels - start), first = blockIdx.y * p.chunk;
    prepare(p, s, first);
    add_spans(p, s, first);
    u64 at = (u64(blockIdx.z) * p.pixels + start) * p.channels + first;
    const T *x = static_cast<const T *>(p.x) + at, *dy = static_cast<const T *>(p.dy) + at;
    T *dx = static_cast<T *>(p.dx) + at;
    for (u32 c = threadIdx.x * V; c < p.chunk; c += blockDim.x * V) {
        Channels channels(p, s, c);
        float plain[V], along[V];
#pragma unroll
        for (int j = 0; j < V; j++) {
            plain[j] = s.totals[(c + j) / p.width * 2];
            along[j] = s.totals[(c + j) / p.width * 2 + 1];
        }
#pragma unroll 2
        for (u32 pixel = threadIdx.y; pixel < span; pixel += blockDim.y) {
            float n[V], g[V];
            load(n, x + u64(pixel) * p.channels + c);
            load(g, dy + u64(pixel) * p.channels + c);
            channels.apply(n, g);
#pragma unroll
            for (int j = 0; j < V; j++) g[j] = channels.scale[j] * (fmaf(g[j], channels.weight[j], -plain[j]) - n[j] * along[j]);
            store(dx + u64(pixel) * p.channels + c, g);
        }
    }
}

extern "C" __global__ void __launch_bounds__(256) group_norm_grad_total(const __grid_constant__ GroupNormGradParams p) {
    const float *sums = p.channel_sums;
    u32 c = blockIdx.x * blockDim.x + threadIdx.x;
    if (c >= p.channels) return;
    float weight = 0.0f, bias = 0.0f;
    for (u32 i = 0; i < p.images * p.spans; i++) {
        weight += sums[u64(i) * 2 * p.channels + c];
        bias += sums[(u64(i) * 2 + 1) * p.channels + c];
    }
    static_cast<float *>(p.dweight)[c] = weight;
    static_cast<float *>(p.dbias)[c] = bias;
}
