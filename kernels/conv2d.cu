// Computes:         y = act(conv(x) + bias + row_bias + residual), x resized by nearest neighbour before if asked for.
// Shapes and layout: x [B,H,W,C] or, of a 1x1 convolution, in two parts of the channels, weight [O,kh,kw,C], bias and slope [O] f32, row_bias [B,O], residual and y [B,h,w,O]; dense.
// Work split:       an implicit product of B h w windows of kh kw C values with the weights: one block per TILE_M windows and TILE_N
//                   outputs, blocks of the same windows side by side; gridDim.z parts of the depth, which conv2d_reduce adds in order.
// Shared memory:    STAGES stages of windows and weights, permuted; afterwards the warps' sums on their way to 16-byte stores.
// Numerics:         products of 16-bit values are exact, sums f32 in the order (ky, kx, channel); one rounding, at the store.
// Specialised by:   T (of x, y), TILE_M, TILE_N, WARPS_M, WARPS_N, STAGES, ALIGNED (C is a multiple of 8), WIDE (O is), RESIZE
//                   or PARTS (of x, two), ACTIVATION, SPLIT; conv2d_plain: TX, TW.
// Entries:          conv2d_tensor (bf16, f16), conv2d_plain (f32, or types of x and weight that differ), conv2d_reduce (after SPLIT).
// Gradient:         conv2d_grad.cu
// Sources:          Chetlur et al. 2014, "cuDNN" (implicit product); CUTLASS, implicit GEMM convolution.
#include "epilogue.cuh"
#include "fma.cuh"
#include "gemm.cuh"
#include "params.cuh"
#include "windows.cuh"

typedef Epilogue<T, ACTIVATION, WIDE, true> Finish;

__forceinline__ Finish finish_of(const Conv2dParams &p) {
    return Finish{p.rows, p.columns, p.bias, p.row_bias, p.out_height * p.out_width, p.residual, p.slope, p.negative, p.y};
}

__forceinline__ Partial partial_of(const Conv2dParams &p) { return Partial{p.partial, p.rows, (p.columns + 15) / 16 * 16}; }

/// Stores the sums of a tile that starts at (m0, n0): finished, or as one part of several.
struct Put {
    const Conv2dParams &p;
    u32 m0, n0;

    __forceinline__ void operator()(u32 row, u32 chunk, float (&v)[8]) const {
        if constexpr (SPLIT) partial_of(p).put(blockIdx.z, m0 + row, n0 + 8 * chunk, v);
        else finish_of(p).put(m0 + row, n0 + 8 * chunk, v);
    }
};

#ifndef REDUCE
__forceinline__ Geometry geometry_of(const Conv2dParams &p) {
    return Geometry{p.height, p.width, p.channels, p.resized_height, p.resized_width, p.kernel_width, p.stride, p.top, p.left, p.out_height, p.out_width};
}
#endif

#ifdef PARTS
/// COUNT pixels of an image whose channels are in two parts.
template <typename V, int COUNT> struct Image : BesideSource<V, COUNT> {
    template <class ROW> __forceinline__ Image(const Conv2dParams &p, u32 k, u32 end, ROW row_of)
        : BesideSource<V, COUNT>(p.x, p.first, p.beside, p.channels - p.first, k, end, row_of) {}
};
#elif defined(RESIZE)
/// COUNT windows of an image.
template <typename V, int COUNT> struct Image : WindowSource<V, COUNT, RESIZE> {
    template <class ROW> __forceinline__ Image(const Conv2dParams &p, u32 k, u32 end, ROW row_of)
        : WindowSource<V, COUNT, RESIZE>(p.x, geometry_of(p), k, end, row_of) {}
};
#endif

#ifdef TILE_M
typedef Product<TILE_M, TILE_N, WARPS_M, WARPS_N, STAGES> Tiles;

extern "C" __global__ void __launch_bounds__(Tiles::THREADS) conv2d_tensor(const __grid_constant__ Conv2dParams p) {
    extern __shared__ __align__(128) u8 shared[];
    typedef Image<T, Tiles::CHUNKS_A> Windows;
    typedef RowSource<T, Tiles::CHUNKS_B> Weights;
    typedef Filler<Tiles::TileA, Windows, Tiles::THREADS, ALIGNED> FillA;
    typedef Filler<Tiles::TileB, Weights, Tiles::THREADS, ALIGNED> FillB;
    const u32 m0 = blockIdx.x / p.tiles_n * TILE_M, n0 = blockIdx.x % p.tiles_n * TILE_N;
    const u32 begin = blockIdx.z * p.split_depth, end = min(begin + p.split_depth, p.depth), k = begin + FillA::chunk() * 8;

    auto window = [&](int i) { return min(m0 + FillA::row() + i * FillA::STEP, p.rows - 1); };
    auto output = [&](int i) { return min(n0 + FillB::row() + i * FillB::STEP, p.columns - 1); };
    FillA a(Windows(p, k, end, window));
    FillB b(Weights(p.weight, p.depth, k, end, output));
    Sums<Tiles> sums;
    multiply<Tiles, T>(sums, shared, a, b, (end - begin + Tiles::DEPTH - 1) / Tiles::DEPTH);
    each_chunk<Tiles, false>(sums, shared, Put{p, m0, n0});
}
#endif

#ifdef TX
extern "C" __global__ void __launch_bounds__(Plain::THREADS) conv2d_plain(const __grid_constant__ Conv2dParams p) {
    __shared__ PlainShared shared;
    const u32 m0 = blockIdx.x / p.tiles_n * Plain::TILE, n0 = blockIdx.x % p.tiles_n * Plain::TILE;
    const u32 begin = blockIdx.z * p.split_depth, end = min(begin + p.split_depth, p.depth), k = begin + Plain::depth();

    Image<TX, 1> a(p, k, end, [&](int) { return min(m0 + Plain::row(), p.rows - 1); });
    RowSource<TW, 1> b(p.weight, p.depth, k, end, [&](int) { return min(n0 + Plain::row(), p.columns - 1); });
    float sums[Plain::PART_M][Plain::PART_N] = {};
    multiply_plain<ALIGNED>(sums, shared, a, b, (end - begin + Plain::DEPTH - 1) / Plain::DEPTH);
    each_plain_chunk<false>(sums, shared, Put{p, m0, n0});
}
#endif

#ifdef REDUCE
/// One thread per 8 outputs of a pixel.
extern "C" __global__ void __launch_bounds__(256) conv2d_reduce(const __grid_constant__ Conv2dParams p) {
    const u32 chunks = (p.columns + 7) / 8, item = blockIdx.x * 256 + threadIdx.x;
    const u32 row = item / chunks, column = item % chunks * 8;
    if (row >= p.rows) return;
    float v[8];
    partial_of(p).sum(v, p.splits, row, column);
    finish_of(p).put(row, column, v);
}
#endif
