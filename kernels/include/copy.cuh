// Bytes in units of 2, 4, 8 or 16, whatever they mean.
#pragma once
#include "types.cuh"

template <int Bytes> struct UnitOf { typedef typename Words<Bytes / 4>::type type; };
template <> struct UnitOf<2> { typedef u16 type; };

__forceinline__ u32 this_thread() { return blockIdx.x * blockDim.x + threadIdx.x; }
