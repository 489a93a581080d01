// How a block walks over rows of channels: threadIdx.x chooses channels, threadIdx.y and the block choose rows. A thread keeps its
// channels, so what belongs to them is read once and stays in registers.
#pragma once
#include "types.cuh"

template <int Width> __forceinline__ u32 first_channel() { return threadIdx.x * Width; }
template <int Width> __forceinline__ u32 channel_step() { return blockDim.x * Width; }

/// First row of this thread; the next one is blockDim.y further on.
__forceinline__ u32 first_row(u32 rows_per_block) { return blockIdx.x * rows_per_block + threadIdx.y; }

/// End of this block's rows.
__forceinline__ u32 end_row(u32 rows_per_block, u32 rows) { return min(rows, (blockIdx.x + 1) * rows_per_block); }
