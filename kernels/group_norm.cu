// Computes          y = silu?((x - mean) / sqrt(variance + eps) * weight + bias), statistics of each image and group of channels
// Shapes and layout x, y [B,P,C] of T, contiguous; weight, bias [C] f32. x may be in two parts: [B,P,first] and beside [B,P,C - first]. A block works on `chunk` channels of one image: whole groups,
//                   as few as make whole 32-byte sectors (group_norm.rs); threadIdx.x chooses V channels, threadIdx.y pixels
// Work split        group_norm_slab: one block per image and chunk, all pixels: x is read once and kept in shared memory.
//                   Where that does not fit or would leave the device idle, two launches on a grid (spans of pixels, chunks, images):
//                   group_norm_statistics: mean and sum of squared distances of each group and span, written to workspace;
//                   group_norm_apply: merges the spans of its groups, then normalises its own pixels
// Shared memory     slab: chunk x P values of T; floats: four per channel, three per group, and one (slab) or two (statistics) per
//                   channel and row of threads. Values of channel c lie at `place(c)`, so that neighbouring threads use neighbouring banks
// Numerics          f32, all relative to one value of the group (its origin), so that values far from zero keep their digits. Slab:
//                   the mean first, then squared distances from it. Statistics: Welford in each thread; means of rows of threads,
//                   channels and spans are averaged first and squared distances then taken from the average, in a fixed order
// Specialised by    T, V (channels of a thread, which divides the chunk and each part of x), SILU
// Entries           group_norm_slab, group_norm_statistics, group_norm_apply
// Gradient          group_norm_grad.cu
// Sources           Welford 1962; Chan, Golub, LeVeque 1983 (equation 2.1)
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
    float *sums;                          // [rows of threads][chunk], once or twice

    explicit Shared(const GroupNormParams &p) {
        slab = reinterpret_cast<T *>(shared_bytes);
        origin = reinterpret_cast<float *>(reinterpret_cast<u8 *>(shared_bytes) + p.slab_bytes);
        mean = origin + p.chunk;
        scale = mean + p.chunk;
        shift = scale + p.chunk;
        origins = shift + p.chunk;
        groups = origins + p.chunk / p.width;
        sums = groups + p.chunk / p.width * 2;
    }
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

/// Channels of x from one on: at the first pixel of an image, and the distance of pixels.
struct Column {
    const T *at;
    u32 pitch;

    __forceinline__ Column(const GroupNormParams &p, u32 image, u32 channel) {
        bool second = channel >= p.first;
        const T *part = second ? static_cast<const T *>(p.beside) : static_cast<const T *>(p.x);
        pitch = second ? p.channels - p.first : p.first;
        at = part + u64(image) * p.pixels * pitch + (second ? channel - p.first : channel);
    }

    __forceinline__ const T *pixel(u32 i) const { return at + u64(i) * pitch; }
};

/// The first value of each group of the block.
__forceinline__ void set_block_origins(const GroupNormParams &p, const Shared &s, u32 first) {
    set_origins([&](u32 group) { return Column(p, blockIdx.z, first + group * p.width).at; }, p.chunk / p.width, s.origins);
}

/// The origins of the groups of the V channels from c on.
__forceinline__ void load_origins(const GroupNormParams &p, const Shared &s, float (&origin)[V], u32 c) {
#pragma unroll
    for (int j = 0; j < V; j++) origin[j] = s.origins[(c + j) / p.width];
}

/// Normalises pixels 0 .. pixels of the chunk. `from(c)` is where channel c of the chunk lies; `to` has the pitch of the image.
template <class FROM> __forceinline__ void normalise(const GroupNormParams &p, const Shared &s, FROM from, T *to, u32 pixels) {
    for (u32 c = threadIdx.x * V; c < p.chunk; c += blockDim.x * V) {
        float origin[V], mean[V], scale[V], shift[V];
        load_placed(p, origin, s.origin, c);
        load_placed(p, mean, s.mean, c);
        load_placed(p, scale, s.scale, c);
        load_placed(p, shift, s.shift, c);
        auto column = from(c);
#pragma unroll 4
        for (u32 pixel = threadIdx.y; pixel < pixels; pixel += blockDim.y) {
            float v[V];
            load(v, column.pixel(pixel));
#pragma unroll
            for (int j = 0; j < V; j++) {
                v[j] = fmaf(v[j] - origin[j] - mean[j], scale[j], shift[j]);
                if constexpr (SILU) v[j] = activate<ACT_SILU>(v[j]);
            }
            store(to + u64(pixel) * p.channels + c, v);
        }
    }
}

// ---- one launch ----

/// out[2 * group] = factor * sum of `sums` over the rows of threads and the channels of the group.
__forceinline__ void sum_groups(const GroupNormParams &p, float *sums, float *out, float factor) {
    __syncthreads();
    for (u32 at = thread_of_block(); at < p.chunk; at += threads_of_block()) {
        float sum = sums[at];
        for (u32 row = 1; row < blockDim.y; row++) sum += sums[row * p.chunk + at];
        sums[at] = sum;
    }
    __syncthreads();
    for (u32 group = thread_of_block(); group < p.chunk / p.width; group += threads_of_block()) {
        float sum = 0.0f;
        for (u32 c = 0; c < p.width; c++) sum += sums[place(p, group * p.width + c)];
        out[group * 2] = sum * factor;
    }
    __syncthreads();
}

/// Channels of the slab, as `Column` has those of x.
struct Held {
    const T *at;
    u32 pitch;

    __forceinline__ const T *pixel(u32 i) const { return at + i * pitch; }
};

extern "C" __global__ void __launch_bounds__(512) group_norm_slab(const __grid_constant__ GroupNormParams p) {
    Shared s(p);
    u32 first = blockIdx.y * p.chunk;
    float each = 1.0f / (float(p.pixels) * float(p.width));
    set_block_origins(p, s, first);

    for (u32 c = threadIdx.x * V; c < p.chunk; c += blockDim.x * V) {
        float sum[V] = {}, origin[V];
        load_origins(p, s, origin, c);
        Column column(p, blockIdx.z, first + c);
#pragma unroll 4
        for (u32 pixel = threadIdx.y; pixel < p.pixels; pixel += blockDim.y) {
            Vec<T, V> v = Vec<T, V>::load(column.pixel(pixel));
            v.store(s.slab + pixel * p.chunk + c);
#pragma unroll
            for (int j = 0; j < V; j++) sum[j] += v[j] - origin[j];
        }
        store_placed(p, s.sums + threadIdx.y * p.chunk, sum, c);
    }
    sum_groups(p, s.sums, s.groups, each);

    for (u32 c = threadIdx.x * V; c < p.chunk; c += blockDim.x * V) {
        float sum[V] = {}, origin[V], mean[V];
        load_origins(p, s, origin, c);
#pragma unroll
        for (int j = 0; j < V; j++) mean[j] = s.groups[(c + j) / p.width * 2];
#pragma unroll 4
        for (u32 pixel = threadIdx.y; pixel < p.pixels; pixel += blockDim.y) {
            Vec<T, V> v = Vec<T, V>::load(s.slab + pixel * p.chunk + c);
#pragma unroll
            for (int j = 0; j < V; j++) {
                float distance = v[j] - origin[j] - mean[j];
                sum[j] = fmaf(distance, distance, sum[j]);
            }
        }
        store_placed(p, s.sums + threadIdx.y * p.chunk, sum, c);
    }
    sum_groups(p, s.sums, s.groups + 1, each);
    for (u32 group = thread_of_block(); group < p.chunk / p.width; group += threads_of_block()) {
        s.groups[group * 2 + 1] = 1.0f / sqrtf(s.groups[group * 2 + 1] + p.eps);
    }
    __syncthreads();
    set_channels(p, s, first);
    T *y = static_cast<T *>(p.y) + u64(blockIdx.z) * p.pixels * p.channels + first;
    normalise(p, s, [&](u32 c) { return Held{s.slab + c, p.chunk}; }, y, p.pixels);
}

// ---- two launches ----

extern "C" __global__ void __launch_bounds__(512) group_norm_statistics(const __grid_constant__ GroupNormParams p) {
    Shared s(p);
    float *means = s.sums, *squares = s.sums + blockDim.y * p.chunk;
    u32 start = blockIdx.x * p.span, span = min(p.span, p.pixels - start);
    u32 first = blockIdx.y * p.chunk;
    set_block_origins(p, s, first);

    for (u32 c = threadIdx.x * V; c < p.chunk; c += blockDim.x * V) {
        float mean[V] = {}, square[V] = {}, origin[V], seen = 0.0f;
        load_origins(p, s, origin, c);
        Column column(p, blockIdx.z, first + c);
#pragma unroll 4
        for (u32 pixel = threadIdx.y; pixel < span; pixel += blockDim.y) {
            float v[V];
            load(v, column.pixel(start + pixel));
            seen += 1.0f;
            float part = ptx::rcp(seen);
#pragma unroll
            for (int j = 0; j < V; j++) {
                float value = v[j] - origin[j], delta = value - mean[j];
                mean[j] = fmaf(delta, part, mean[j]);
                square[j] = fmaf(delta, value - mean[j], square[j]);
            }
        }
        store_placed(p, means + threadIdx.y * p.chunk, mean, c);
        store_placed(p, squares + threadIdx.y * p.chunk, square, c);
    }
    __syncthreads();

    // of each channel: the mean over the rows of threads, which saw `every` or one more pixel, then the squared distances from it
    u32 every = span / blockDim.y, longer = span % blockDim.y;
    for (u32 at = thread_of_block(); at < p.chunk; at += threads_of_block()) {
        float sum = 0.0f, square = 0.0f;
        for (u32 row = 0; row < blockDim.y; row++) sum = fmaf(float(every + (row < longer)), means[row * p.chunk + at], sum);
        float mean = sum / float(span);
        for (u32 row = 0; row < blockDim.y; row++) {
            float distance = means[row * p.chunk + at] - mean;
            square += fmaf(float(every + (row < longer)) * distance, distance, squares[row * p.chunk + at]);
        }
        means[at] = mean;
        squares[at] = square;
    }
    __syncthreads();

    // of each group the same, over its channels
    float2 *partial = p.partial;
    for (u32 group = thread_of_block(); group < p.chunk / p.width; group += threads_of_block()) {
        float sum = 0.0f, square = 0.0f;
        for (u32 c = 0; c < p.width; c++) sum += means[place(p, group * p.width + c)];
        float mean = sum / float(p.width);
        for (u32 c = 0; c < p.width; c++) {
            u32 from = place(p, group * p.width + c);
            float distance = means[from] - mean;
            square += fmaf(float(span) * distance, distance, squares[from]);
        }
        u32 which = blockIdx.z * (p.channels / p.width) + first / p.width + group;
        partial[u64(which) * gridDim.x + blockIdx.x] = make_float2(mean, square);
    }
}

extern "C" __global__ void __launch_bounds__(512) group_norm_apply(const __grid_constant__ GroupNormParams p) {
    Shared s(p);
    u32 start = blockIdx.x * p.span, first = blockIdx.y * p.chunk;
    set_block_origins(p, s, first);
    Place place = {blockIdx.z, first / p.width, p.channels / p.width, gridDim.x, p.span, p.pixels, p.width};
    merge_spans(place, p.partial, p.eps, p.chunk / p.width, s.groups);
    set_channels(p, s, first);
    T *y = static_cast<T *>(p.y) + (u64(blockIdx.z) * p.pixels + start) * p.channels + first;
    auto from = [&](u32 c) {
        Column column(p, blockIdx.z, first + c);
        column.at = column.pixel(start);
        return column;
    };
    normalise(p, s, from, y, min(p.span, p.pixels - start));
}
