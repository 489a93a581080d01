// What group_norm.cu and group_norm_grad.cu share: the moments of a group and the merging of its spans.
#pragma once
#include "types.cuh"

__forceinline__ u32 thread_of_block() { return threadIdx.y * blockDim.x + threadIdx.x; }
__forceinline__ u32 threads_of_block() { return blockDim.x * blockDim.y; }

/// Mean and sum of squared distances of `count` values.
struct Moments {
    float count, mean, squares;
};

/// Those of both together (Chan, Golub, LeVeque 1983). Either may be empty.
__forceinline__ Moments merge(Moments a, Moments b) {
    float count = a.count + b.count, part = count > 0.0f ? b.count / count : 0.0f, delta = b.mean - a.mean;
    return {count, fmaf(delta, part, a.mean), a.squares + fmaf(delta * delta, a.count * part, b.squares)};
}

/// A value of each group of a block, near which its statistics are computed: that of its first channel at the image's first pixel.
/// Sums of differences from it keep the digits that sums of values far from zero would lose.
template <typename Type> __forceinline__ void set_origins(const Type *image, u32 block_groups, u32 width, float *out) {
    for (u32 group = thread_of_block(); group < block_groups; group += threads_of_block()) out[group] = to_f32(image[group * width]);
    __syncthreads();
}

/// Where a block's channels and pixels are.
struct Place {
    u32 image, first_group, groups, spans, span, pixels, width;
};

/// Mean (from the origin) and 1 / sqrt(variance + eps) of each group of a block, as pairs: a warp merges the spans of a group, each lane some, then the lanes.
__forceinline__ void merge_spans(const Place &at, const float2 *partial, float eps, u32 block_groups, float *out) {
    u32 lane = thread_of_block() % 32;
    for (u32 group = thread_of_block() / 32; group < block_groups; group += threads_of_block() / 32) {
        const float2 *of_group = partial + u64(at.image * at.groups + at.first_group + group) * at.spans;
        Moments all = {0.0f, 0.0f, 0.0f};
        for (u32 i = lane; i < at.spans; i += 32) {
            all = merge(all, {float(min(at.span, at.pixels - i * at.span)) * float(at.width), of_group[i].x, of_group[i].y});
        }
#pragma unroll
        for (int offset = 16; offset > 0; offset /= 2) {
            float count = __shfl_down_sync(0xffffffffu, all.count, offset);
            float mean = __shfl_down_sync(0xffffffffu, all.mean, offset);
            all = merge(all, {count, mean, __shfl_down_sync(0xffffffffu, all.squares, offset)});
        }
        if (lane == 0) {
            out[group * 2] = all.mean;
            out[group * 2 + 1] = 1.0f / sqrtf(all.squares / all.count + eps);
        }
    }
    __syncthreads();
}
