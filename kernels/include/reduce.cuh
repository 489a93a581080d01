// Sums and maxima over the lanes of a warp and the warps of a block, in one order whatever runs first: results are the same bits.
#pragma once
#include "types.cuh"

struct Sum {
    static __forceinline__ float of(float a, float b) { return a + b; }
};

struct Max {
    static __forceinline__ float of(float a, float b) { return fmaxf(a, b); }
};

/// Over each Lanes neighbouring lanes (a power of two up to 32); all of them get the result. Every lane of the warp must take part.
template <typename Join, int Lanes> __forceinline__ float over_lanes(float x) {
#pragma unroll
    for (int offset = Lanes / 2; offset > 0; offset /= 2) x = Join::of(x, __shfl_xor_sync(0xffffffffu, x, offset));
    return x;
}

/// Over each Lanes neighbouring threads: lanes of a warp up to 32, beyond that all Lanes threads of the block, which then must all
/// take part. `parts` is shared memory for Lanes / 32 values, and may be used again after the next barrier.
template <typename Join, int Lanes> __forceinline__ float over_threads(float x, float *parts) {
    if constexpr (Lanes <= 32) {
        return over_lanes<Join, Lanes>(x);
    } else {
        x = over_lanes<Join, 32>(x);
        if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
        __syncthreads();
        float total = parts[0];
#pragma unroll
        for (int i = 1; i < Lanes / 32; i++) total = Join::of(total, parts[i]);
        return total;
    }
}
