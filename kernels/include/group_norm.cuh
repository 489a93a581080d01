// What group_norm.cu and group_norm_grad.cu share: the origins of groups, and the merging of their spans.
#pragma once
#include "reduce.cuh"
#include "types.cuh"

__forceinline__ u32 thread_of_block() { return threadIdx.y * blockDim.x + threadIdx.x; }
__forceinline__ u32 threads_of_block() { return blockDim.x * blockDim.y; }

/// A value of each group of a block, near which its statistics are computed: that of its first channel at the image's first pixel.
/// Sums of differences from it keep the digits that sums of values far from zero would lose.
/// `first(group)` is where it lies.
template <class FIRST> __forceinline__ void set_origins(FIRST first, u32 block_groups, float *out) {
    for (u32 group = thread_of_block(); group < block_groups; group += threads_of_block()) out[group] = to_f32(*first(group));
    __syncthreads();
}

/// Which groups and pixels a block has.
struct Place {
    u32 image, first_group, groups, spans, span, pixels, width;

    /// Where the workspace has the pair of a group of the block and a span.
    __forceinline__ u64 pair(u32 group, u32 of_span) const { return u64(image * groups + first_group + group) * spans + of_span; }
};

/// Mean (from the origin) and 1 / sqrt(variance + eps) of each group of a block, as pairs. `partial` holds mean and sum of squared
/// distances of each span; a warp adds those of a group, the mean of all first, then the squared distances from it.
__forceinline__ void merge_spans(const Place &at, const float2 *partial, float eps, u32 block_groups, float *out) {
    u32 lane = thread_of_block() % 32;
    float all = float(at.pixels) * float(at.width);
    for (u32 group = thread_of_block() / 32; group < block_groups; group += threads_of_block() / 32) {
        const float2 *of_group = partial + at.pair(group, 0);
        // of up to 32 spans each lane has one, which it reads once
        float2 own = lane < at.spans ? of_group[lane] : make_float2(0.0f, 0.0f);
        auto pair = [&](u32 i) { return i == lane ? own : of_group[i]; };
        auto values = [&](u32 i) { return float(min(at.span, at.pixels - i * at.span)) * float(at.width); };
        float sum = 0.0f, squares = 0.0f;
        for (u32 i = lane; i < at.spans; i += 32) sum = fmaf(values(i), pair(i).x, sum);
        float mean = over_lanes<Sum, 32>(sum) / all;
        for (u32 i = lane; i < at.spans; i += 32) {
            float distance = pair(i).x - mean;
            squares += fmaf(values(i) * distance, distance, pair(i).y);
        }
        squares = over_lanes<Sum, 32>(squares);
        if (lane == 0) {
            out[group * 2] = mean;
            out[group * 2 + 1] = 1.0f / sqrtf(squares / all + eps);
        }
    }
    __syncthreads();
}
