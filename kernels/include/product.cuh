// The frame that all matrix products share: which tile and which part of the depth a block makes, and how parts become one result.
//
// Where the depth is cut, each block leaves its sums in memory, as its threads hold them, and counts itself. The block of a tile that
// comes last adds all parts in their order, its own among them, so the bits do not depend on which block that is.
// Counting wraps around: the counters are zero again when the launch ends.
#pragma once
#include "fma.cuh"
#include "gemm.cuh"
#include "params.cuh"

/// The tile and the part of the depth of this block.
struct Work {
    u32 m0, n0, begin, end;

    /// Tiles of one row of tiles lie side by side; `tile_n` are columns of the result.
    static __forceinline__ Work of(const ProductParams &p, u32 tile_m, u32 tile_n) {
        u32 begin = blockIdx.z * p.part_depth;
        return {blockIdx.x / p.tiles_n * tile_m, blockIdx.x % p.tiles_n * tile_n, begin, min(begin + p.part_depth, p.depth)};
    }

    __forceinline__ u32 steps(u32 step) const { return (end - begin + step - 1) / step; }
};

/// Counts this block among those of its tile; true in all threads of the last one, which then sees what the others have written.
__forceinline__ bool is_last_of_tile(const ProductParams &p) {
    u32 *counters = p.counters;
    bool last = false;
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        last = atomicInc(counters + blockIdx.x, p.parts - 1) == p.parts - 1;
        __threadfence();
    }
    return __syncthreads_or(last);
}

/// Leaves the sums of this part in memory and, if it is the last one to come, gets those of all parts in return.
/// [part][tile][quad][thread] in quads of f32: all lanes of an access lie beside each other.
template <int THREADS, int QUADS> __forceinline__ bool sum_parts(float (&sums)[QUADS][4], const ProductParams &p) {
    float *partial = p.partial;
    auto quad = [&](u32 part, u32 i) { return partial + ((u64(part) * gridDim.x + blockIdx.x) * QUADS + i) * (4 * THREADS) + 4 * threadIdx.x; };
#pragma unroll
    for (u32 i = 0; i < QUADS; i++) store<4>(quad(blockIdx.z, i), sums[i]);
    if (!is_last_of_tile(p)) return false;
#pragma unroll
    for (u32 i = 0; i < QUADS; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) sums[i][e] = 0.0f;
    // small parts several at a time, so that enough reads are under way
    enum { AT_ONCE = QUADS >= 16 ? 1 : 16 / QUADS };
#pragma unroll AT_ONCE
    for (u32 part = 0; part < p.parts; part++)
#pragma unroll
        for (u32 i = 0; i < QUADS; i++) {
            float more[4];
            load<4>(more, quad(part, i));
#pragma unroll
            for (int e = 0; e < 4; e++) sums[i][e] += more[e];
        }
    return true;
}

/// Hands chunks of a tile to what finishes them: `put(row, column, values)`, gated `put_gated(row, column, values, gates)`.
template <class FINISH> struct Put {
    FINISH finish;
    u32 m0, n0;

    __forceinline__ void operator()(u32 row, u32 chunk, float (&v)[8]) const { finish.put(m0 + row, n0 + 8 * chunk, v); }

    __forceinline__ void operator()(u32 row, u32 chunk, float (&v)[8], float (&gates)[8]) const {
        finish.put_gated(m0 + row, n0 + 8 * chunk, v, gates);
    }
};

/// A whole product on tensor cores.
template <class P, typename V, bool Split, class FillA, class FillB, class FINISH>
__forceinline__ void product(const ProductParams &p, const Work &work, u8 *shared, FillA a, FillB b, const FINISH &finish) {
    Sums<P> sums;
    multiply<P, V>(sums, shared, a, b, work.steps(P::DEPTH));
    if constexpr (Split)
        if (!sum_parts<P::THREADS>(sums.at, p)) return;
    each_chunk<P, FINISH::GATES>(sums, shared, Put<FINISH>{finish, work.m0, work.n0});
}

/// A whole product by plain arithmetic.
template <bool Aligned, bool Split, class A, class B, class FINISH>
__forceinline__ void plain_product(const ProductParams &p, const Work &work, A a, B b, const FINISH &finish) {
    __shared__ PlainShared shared;
    float sums[Plain::PART_M][Plain::PART_N] = {};
    multiply_plain<Aligned>(sums, shared, a, b, work.steps(Plain::DEPTH));
    if constexpr (Split)
        if (!sum_parts<Plain::THREADS>(sums, p)) return;
    each_plain_chunk<FINISH::GATES>(sums, shared, Put<FINISH>{finish, work.m0, work.n0});
}
