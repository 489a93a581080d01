// Sums over rows for each channel, in one order whatever runs first: a block adds a span of rows of some channels, threadIdx.y sharing
// the rows, and writes its sums beside those of the other spans; a second launch adds the spans.
#pragma once
#include "types.cuh"

/// Count sums for each of Width channels of a thread, in blocks of 256 threads.
template <int Width, int Count> struct ColumnSums {
    float sum[Count][Width];

    ColumnSums() {
#pragma unroll
        for (int n = 0; n < Count; n++) {
#pragma unroll
            for (int j = 0; j < Width; j++) sum[n][j] = 0.0f;
        }
    }

    /// Adds the rows of threads up and writes partial[n * pitch + c ..] for each n. All threads of the block must come.
    __forceinline__ void write(float *partial, u32 pitch, u32 c, bool there) {
        __shared__ float shared[256 * Width];
#pragma unroll
        for (int n = 0; n < Count; n++) {
            __syncthreads();
#pragma unroll
            for (int j = 0; j < Width; j++) shared[(threadIdx.y * Width + j) * blockDim.x + threadIdx.x] = sum[n][j];
            __syncthreads();
            if (threadIdx.y > 0 || !there) continue;
            for (u32 row = 1; row < blockDim.y; row++) {
#pragma unroll
                for (int j = 0; j < Width; j++) sum[n][j] += shared[(row * Width + j) * blockDim.x + threadIdx.x];
            }
            store(partial + n * pitch + c, sum[n]);
        }
    }
};
