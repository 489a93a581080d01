// The sum over a block of 256 threads, and over blocks: each writes its own, one block adds them in their order.
#pragma once
#include "reduce.cuh"

/// The sum over the block; all threads must come, and all of them get it.
__forceinline__ float block_sum(float x) {
    __shared__ float parts[8];
    return over_threads<Sum, 256>(x, parts);
}

/// The sum of `count` values, by a block of 256 threads.
__forceinline__ float sum_of(const float *values, u32 count) {
    float sum = 0.0f;
    for (u32 i = threadIdx.x; i < count; i += 256) sum += values[i];
    return block_sum(sum);
}
