// Computes          y = silu?((x - mean) / sqrt(variance + eps) * weight + bias), statistics of each image and group of channels
// Shapes and layout x, y [B,P,C] of T, contiguous; weight, bias [C] f32. x may be in two parts: [B,P,first] and beside [B,P,C - first].
//                   A block works on `chunk` channels: whole groups, as few as make whole 32-byte sectors (group_norm/lower.rs)
// Work split        threadIdx.x chooses V channels, threadIdx.y pixels.
//                   group_norm_slab: one block per image and chunk, all pixels: x is read once and kept in shared memory.
//                   group_norm_spans, where that is much for one block: each chunk in spans of pixels, a block adds up a span or
//                   normalises one. Blocks draw numbers; the first half adds up, and the others wait until all spans of their
//                   chunk are added up. They only wait for lower numbers, whose blocks run already: the launch always ends, however
//                   few blocks run at a time. The second reading of x finds it in the second-level cache, if it fits
//                   group_norm_statistics: only adds up, for the gradient
// Shared memory     slab: chunk x P values of T; floats: four per channel, three per group, and two per channel and row of threads.
//                   Values of channel c lie at `place(c)`, rows of threads `pitch` apart, so that a warp uses each bank once
// Numerics          f32, all relative to one value of the group (its origin), so that values far from zero keep their digits. A thread
//                   sums differences from the first value it sees, and their squares; from these follow its mean and the squared
//                   distances from it. Means of threads, channels and spans are averaged first and squared distances then taken
//                   from the average, in a fixed order
// Specialised by    T, V (channels of a thread, which divides the chunk and each part of x), SILU
// Entries           group_norm_slab, group_norm_spans, group_norm_statistics
// Gradient          group_norm_grad.cu
// Sources           Chan, Golub, LeVeque 1983 (equation 2.1); Merrill, Garland 2016 (waiting for lower numbers)
#include "act.cuh"
#include "group_norm.cuh"
#include "params.cuh"
#include "types.cuh"

extern __shared__ uint4 shared_bytes[];

/// Shared memory of a block.
struct Shared {
    T *slab;
    float *origin, *mean, *scale, *shift; // of each channel
    float *origins, *groups;              // of each group; the latter pairs
    float *means, *squares;               // [rows of threads][pitch]

    explicit Shared(const GroupNormParams &p) {
        slab = reinterpret_cast<T *>(shared_bytes);
        origin = reinterpret_cast<float *>(reinterpret_cast<u8 *>(shared_bytes) + p.slab_bytes);
        mean = origin + p.chunk;
        scale = mean + p.chunk;
        shift = scale + p.chunk;
        origins = shift + p.chunk;
        groups = origins + p.chunk / p.width;
        means = groups + p.chunk / p.width * 2;
        squares = means + blockDim.y * p.pitch;
    }
};

/// What a block works on: channels from `first` on, `pixels` pixels from `start` on, which are the span'th of the chunk.
struct Part {
    u32 image, first, span, start, pixels;

    /// Spans of a chunk follow each other, then chunks, then images.
    Part(const GroupNormParams &p, u32 number) {
        u32 chunk = number / p.spans, chunks = p.channels / p.chunk;
        image = chunk / chunks;
        first = chunk % chunks * p.chunk;
        span = number % p.spans;
        start = span * p.span;
        pixels = min(p.span, p.pixels - start);
    }

    __forceinline__ Place place(const GroupNormParams &p) const {
        return {image, first / p.width, p.channels / p.width, p.spans, p.span, p.pixels, p.width};
    }
};

/// Channels of x from one on: at a pixel of an image, and the distance of pixels.
struct Column {
    const T *at;
    u32 pitch;

    __forceinline__ Column(const T *at, u32 pitch) : at(at), pitch(pitch) {}

    __forceinline__ Column(const GroupNormParams &p, u32 image, u32 pixel, u32 channel) {
        bool second = channel >= p.first;
        const T *part = second ? static_cast<const T *>(p.beside) : static_cast<const T *>(p.x);
        pitch = second ? p.channels - p.first : p.first;
        at = part + (u64(image) * p.pixels + pixel) * pitch + (second ? channel - p.first : channel);
    }

    __forceinline__ const T *pixel(u32 i) const { return at + u64(i) * pitch; }
};

/// Where channel c of the chunk lies among values per channel: the first channels of all vectors, then the second ones, and so on.
__forceinline__ u32 place(const GroupNormParams &p, u32 c) { return c % V * (p.chunk / V) + c / V; }

/// Values of the V channels from c on.
__forceinline__ void load_placed(const GroupNormParams &p, float (&x)[V], const float *values, u32 c) {
#pragma unroll
    for (int j = 0; j < V; j++) x[j] = values[j * (p.chunk / V) + c / V];
}

__forceinline__ void store_placed(const GroupNormParams &p, float *values, const float (&x)[V], u32 c) {
#pragma unroll
    for (int j = 0; j < V; j++) values[j * (p.chunk / V) + c / V] = x[j];
}

// ---- statistics ----

/// Mean and squared distances from it of the pixels that a thread sees of its channels. KEEP: their values stay in the slab.
template <bool KEEP> __forceinline__ void add_up_threads(const GroupNormParams &p, const Shared &s, const Part &part) {
    for (u32 c = threadIdx.x * V; c < p.chunk; c += blockDim.x * V) {
        Column column(p, part.image, part.start, part.first + c);
        auto pixel = [&](u32 i) {
            Vec<T, V> v = Vec<T, V>::load(column.pixel(i));
            if constexpr (KEEP) v.store(s.slab + i * p.chunk + c);
            return v;
        };
        float pivot[V] = {}, sum[V] = {}, square[V] = {}, seen = 1.0f;
        if (threadIdx.y < part.pixels) {
            Vec<T, V> v = pixel(threadIdx.y);
#pragma unroll
            for (int j = 0; j < V; j++) pivot[j] = v[j];
        }
#pragma unroll 4
        for (u32 i = threadIdx.y + blockDim.y; i < part.pixels; i += blockDim.y) {
            Vec<T, V> v = pixel(i);
            seen += 1.0f;
#pragma unroll
            for (int j = 0; j < V; j++) {
                float distance = v[j] - pivot[j];
                sum[j] += distance;
                square[j] = fmaf(distance, distance, square[j]);
            }
        }
        float each = 1.0f / seen;
#pragma unroll
        for (int j = 0; j < V; j++) {
            float mean = sum[j] * each;
            square[j] = fmaxf(fmaf(-sum[j], mean, square[j]), 0.0f);
            sum[j] = pivot[j] - s.origins[(c + j) / p.width] + mean;
        }
        store_placed(p, s.means + threadIdx.y * p.pitch, sum, c);
        store_placed(p, s.squares + threadIdx.y * p.pitch, square, c);
    }
    __syncthreads();
}

/// Origin, mean and squared distances from it of each group of a part, the latter two as pairs.
template <bool KEEP> __forceinline__ void add_up(const GroupNormParams &p, const Shared &s, const Part &part) {
    add_up_threads<KEEP>(p, s, part);

    // of each channel: the mean over the rows of threads, which saw `every` or one more pixel, then the squared distances from it
    u32 every = part.pixels / blockDim.y, longer = part.pixels % blockDim.y;
    for (u32 at = thread_of_block(); at < p.chunk; at += threads_of_block()) {
        float sum = 0.0f, square = 0.0f;
#pragma unroll 8
        for (u32 row = 0; row < blockDim.y; row++) sum = fmaf(float(every + (row < longer)), s.means[row * p.pitch + at], sum);
        float mean = sum / float(part.pixels);
#pragma unroll 8
        for (u32 row = 0; row < blockDim.y; row++) {
            float distance = s.means[row * p.pitch + at] - mean;
            square += fmaf(float(every + (row < longer)) * distance, distance, s.squares[row * p.pitch + at]);
        }
        s.means[at] = mean;
        s.squares[at] = square;
    }
    __syncthreads();

    // of each group the same, over its channels
    for (u32 group = thread_of_block(); group < p.chunk / p.width; group += threads_of_block()) {
        float sum = 0.0f, square = 0.0f;
        for (u32 c = 0; c < p.width; c++) sum += s.means[place(p, group * p.width + c)];
        float mean = sum / float(p.width);
        for (u32 c = 0; c < p.width; c++) {
            u32 from = place(p, group * p.width + c);
            float distance = s.means[from] - mean;
            square += fmaf(float(part.pixels) * distance, distance, s.squares[from]);
        }
        s.groups[group * 2] = mean;
        s.groups[group * 2 + 1] = square;
    }
    __syncthreads();
}

/// The first value of each group of the block.
__forceinline__ void set_block_origins(const GroupNormParams &p, const Shared &s, const Part &part) {
    set_origins([&](u32 group) { return Column(p, part.image, 0, part.first + group * p.width).at; }, p.chunk / p.width, s.origins);
}

/// Adds up a span and writes the pairs of its groups to the workspace.
__forceinline__ void add_up_span(const GroupNormParams &p, const Shared &s, const Part &part) {
    add_up<false>(p, s, part);
    float2 *partial = p.partial;
    for (u32 group = thread_of_block(); group < p.chunk / p.width; group += threads_of_block()) {
        partial[part.place(p).pair(group, part.span)] = make_float2(s.groups[group * 2], s.groups[group * 2 + 1]);
    }
}

// ---- normalisation ----

/// Origin, mean, scale and shift of each channel from its group's mean and 1 / sqrt(variance + eps).
__forceinline__ void set_channels(const GroupNormParams &p, const Shared &s, u32 first) {
    const float *weight = p.weight, *bias = p.bias;
    for (u32 c = thread_of_block(); c < p.chunk; c += threads_of_block()) {
        const float *group = s.groups + c / p.width * 2;
        u32 at = place(p, c);
        s.origin[at] = s.origins[c / p.width];
        s.mean[at] = group[0];
        s.scale[at] = group[1] * weight[first + c];
        s.shift[at] = bias[first + c];
    }
    __syncthreads();
}

/// Writes the pixels of a part. `from(c)` is where channel c of the chunk lies.
template <class FROM> __forceinline__ void normalise(const GroupNormParams &p, const Shared &s, const Part &part, FROM from) {
    T *y = static_cast<T *>(p.y) + (u64(part.image) * p.pixels + part.start) * p.channels + part.first;
    for (u32 c = threadIdx.x * V; c < p.chunk; c += blockDim.x * V) {
        float origin[V], mean[V], scale[V], shift[V];
        load_placed(p, origin, s.origin, c);
        load_placed(p, mean, s.mean, c);
        load_placed(p, scale, s.scale, c);
        load_placed(p, shift, s.shift, c);
        Column column = from(c);
#pragma unroll 4
        for (u32 pixel = threadIdx.y; pixel < part.pixels; pixel += blockDim.y) {
            float v[V];
            load(v, column.pixel(pixel));
#pragma unroll
            for (int j = 0; j < V; j++) {
                v[j] = fmaf(v[j] - origin[j] - mean[j], scale[j], shift[j]);
                if constexpr (SILU) v[j] = activate<ACT_SILU>(v[j]);
            }
            store(y + u64(pixel) * p.channels + c, v);
        }
    }
}

// ---- entries ----

extern "C" __global__ void __launch_bounds__(512) group_norm_slab(const __grid_constant__ GroupNormParams p) {
    Shared s(p);
    Part part(p, blockIdx.x);
    set_block_origins(p, s, part);
    add_up<true>(p, s, part);
    for (u32 group = thread_of_block(); group < p.chunk / p.width; group += threads_of_block()) {
        s.groups[group * 2 + 1] = 1.0f / sqrtf(s.groups[group * 2 + 1] / (float(p.pixels) * float(p.width)) + p.eps);
    }
    __syncthreads();
    set_channels(p, s, part.first);
    normalise(p, s, part, [&](u32 c) { return Column(s.slab + c, p.chunk); });
}

extern "C" __global__ void __launch_bounds__(384, 2) group_norm_statistics(const __grid_constant__ GroupNormParams p) {
    Shared s(p);
    Part part(p, blockIdx.x);
    set_block_origins(p, s, part);
    add_up_span(p, s, part);
}

/// Twice as many blocks as parts. Counters: the numbers drawn, then of each chunk the blocks that have added up or begun to normalise.
/// They wrap around with the last block of all and of the chunk: the launch leaves them at zero.
extern "C" __global__ void __launch_bounds__(384) group_norm_spans(const __grid_constant__ GroupNormParams p) {
    __shared__ u32 drawn;
    Shared s(p);
    u32 *counters = p.counters, parts = gridDim.x / 2;
    bool waits = thread_of_block() == 0;
    if (waits) drawn = atomicInc(counters, gridDim.x - 1);
    __syncthreads();
    Part part(p, drawn % parts);
    u32 *arrived = counters + 1 + drawn % parts / p.spans;
    set_block_origins(p, s, part);
    if (drawn < parts) {
        add_up_span(p, s, part);
        __syncthreads();
        if (waits) {
            __threadfence();
            atomicInc(arrived, 2 * p.spans - 1);
        }
        return;
    }
    if (waits) {
        while (*static_cast<volatile u32 *>(arrived) < p.spans) __nanosleep(40);
        atomicInc(arrived, 2 * p.spans - 1);
        __threadfence();
    }
    __syncthreads();
    merge_spans(part.place(p), p.partial, p.eps, p.chunk / p.width, s.groups);
    set_channels(p, s, part.first);
    normalise(p, s, part, [&](u32 c) { return Column(p, part.image, part.start, part.first + c); });
}
