// Products of few rows by plain arithmetic: what binds is the weight on its way, so every byte of it is read once, whole lines at a time,
// and many reads are under way. A block makes COUNT rows by 8 columns; its threads share the depth.
#pragma once
#include "reduce.cuh"

struct FewRows {
    enum { WARPS = 4, THREADS = 32 * WARPS, COLUMNS = 8, EACH = 4 };
};

/// Sums of `COUNT` rows of x from `row` with 8 rows of the weight from `column`, in all threads; what lies beyond the last row or column
/// repeats it. Depth is a multiple of 4.
template <int COUNT, typename X, typename W>
__forceinline__ void multiply_few(float (&sums)[COUNT][8], const X *x, const W *weight, u32 row, u32 rows, u32 column, u32 columns, u32 depth) {
#pragma unroll 2
    for (u32 k = FewRows::EACH * threadIdx.x; k < depth; k += FewRows::EACH * FewRows::THREADS) {
        float w[8][FewRows::EACH], v[FewRows::EACH];
#pragma unroll
        for (u32 c = 0; c < 8; c++) load(w[c], weight + u64(min(column + c, columns - 1)) * depth + k);
#pragma unroll
        for (u32 r = 0; r < COUNT; r++) {
            load(v, x + u64(min(row + r, rows - 1)) * depth + k);
#pragma unroll
            for (int c = 0; c < 8; c++)
#pragma unroll
                for (int e = 0; e < FewRows::EACH; e++) sums[r][c] = fmaf(v[e], w[c][e], sums[r][c]);
        }
    }
    __shared__ float parts[COUNT][8][FewRows::WARPS];
#pragma unroll
    for (int r = 0; r < COUNT; r++)
#pragma unroll
        for (int c = 0; c < 8; c++) {
            float sum = over_lanes<Sum, 32>(sums[r][c]);
            if (threadIdx.x % 32 == 0) parts[r][c][threadIdx.x / 32] = sum;
        }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < COUNT; r++)
#pragma unroll
        for (int c = 0; c < 8; c++) {
            sums[r][c] = parts[r][c][0];
#pragma unroll
            for (int i = 1; i < FewRows::WARPS; i++) sums[r][c] += parts[r][c][i];
        }
}
