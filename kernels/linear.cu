// Computes:         y = act(x · Wᵀ + bias) + residual, or gated: y = a · gelu(b) + residual of the two halves of x · Wᵀ + bias.
// Shapes and layout: x [rows, depth], W [columns, depth] (gated: [2 columns, depth], values first), bias f32, y and residual
//                   [rows, columns]; all row-major and dense.
// Work split:       one block per TILE_M x TILE_N of y, blocks of one row of tiles side by side; gridDim.z parts of depth, whose sums
//                   linear_reduce adds in their order. Gated: each warp holds values and gates of the same columns.
// Shared memory:    STAGES stages of both operands, permuted; afterwards the warps' sums on their way to 16-byte stores.
// Numerics:         products of 16-bit values are exact, sums f32 in the order of depth; one rounding, at the store.
// Specialised by:   T (of x, y, W), TILE_M, TILE_N, WARPS_M, WARPS_N, STAGES, ALIGNED (depth is a multiple of 8), WIDE (columns is),
//                   ACTIVATION, GATED, SPLIT; linear_plain: TX, TW.
// Entries:          linear_tensor (bf16, f16), linear_plain (f32, or types of x and W that differ), linear_reduce (after SPLIT).
// Gradient:         linear_grad.cu
// Sources:          CUTLASS, "Efficient GEMM in CUDA" (multistage pipeline); PTX ISA, mma.m16n8k16 and ldmatrix.
#include "epilogue.cuh"
#include "fma.cuh"
#include "gemm.cuh"
#include "params.cuh"

typedef Epilogue<T, ACTIVATION, WIDE, false> Finish;

__forceinline__ Finish finish_of(const LinearParams &p) {
    return Finish{p.rows, p.columns, p.bias, nullptr, 1, p.residual, nullptr, p.negative, p.y};
}

/// Columns of the partial sums; gated: the values, then the gates.
__forceinline__ u32 pitch_of(const LinearParams &p) { return (p.columns + 15) / 16 * 16 * (GATED ? 2 : 1); }

__forceinline__ Partial partial_of(const LinearParams &p) { return Partial{p.partial, p.rows, pitch_of(p)}; }

/// Row of W that is row r of a block's tile: gated tiles hold, for each warp of WARP columns, half values and half gates.
template <int WARP> __forceinline__ u32 weight_row(const LinearParams &p, u32 first, u32 r) {
    if constexpr (!GATED) return min(first + r, p.columns - 1);
    u32 within = r % WARP, column = min(first + r / WARP * (WARP / 2) + within % (WARP / 2), p.columns - 1);
    return within < WARP / 2 ? column : p.columns + column;
}

/// Stores the sums of a tile that starts at (m0, n0): finished, or as one part of several.
struct Put {
    const LinearParams &p;
    u32 m0, n0;

    __forceinline__ void operator()(u32 row, u32 chunk, float (&v)[8]) const {
        if constexpr (SPLIT) partial_of(p).put(blockIdx.z, m0 + row, n0 + 8 * chunk, v);
        else finish_of(p).put(m0 + row, n0 + 8 * chunk, v);
    }

    __forceinline__ void operator()(u32 row, u32 chunk, float (&v)[8], float (&gates)[8]) const {
        u32 column = n0 + 8 * chunk;
        if constexpr (SPLIT) {
            if (column >= p.columns) return;
            partial_of(p).put(blockIdx.z, m0 + row, column, v);
            partial_of(p).put(blockIdx.z, m0 + row, pitch_of(p) / 2 + column, gates);
        } else {
            finish_of(p).put_gated(m0 + row, column, v, gates);
        }
    }
};

#ifdef TILE_M
typedef Product<TILE_M, TILE_N, WARPS_M, WARPS_N, STAGES> Tiles;

extern "C" __global__ void __launch_bounds__(Tiles::THREADS) linear_tensor(const __grid_constant__ LinearParams p) {
    extern __shared__ __align__(128) u8 shared[];
    typedef Filler<Tiles::TileA, RowSource<T, Tiles::CHUNKS_A>, Tiles::THREADS, ALIGNED> FillA;
    typedef Filler<Tiles::TileB, RowSource<T, Tiles::CHUNKS_B>, Tiles::THREADS, ALIGNED> FillB;
    const u32 m0 = blockIdx.x / p.tiles_n * TILE_M, n0 = blockIdx.x % p.tiles_n * (GATED ? TILE_N / 2 : TILE_N);
    const u32 begin = blockIdx.z * p.split_depth, end = min(begin + p.split_depth, p.depth), k = begin + FillA::chunk() * 8;

    auto row_a = [&](int i) { return min(m0 + FillA::row() + i * FillA::STEP, p.rows - 1); };
    auto row_b = [&](int i) { return weight_row<Tiles::WARP_N>(p, n0, FillB::row() + i * FillB::STEP); };
    FillA a(RowSource<T, Tiles::CHUNKS_A>(p.x, p.depth, k, end, row_a));
    FillB b(RowSource<T, Tiles::CHUNKS_B>(p.weight, p.depth, k, end, row_b));
    Sums<Tiles> sums;
    multiply<Tiles, T>(sums, shared, a, b, (end - begin + Tiles::DEPTH - 1) / Tiles::DEPTH);
    each_chunk<Tiles, GATED>(sums, shared, Put{p, m0, n0});
}
#endif

#ifdef TX
extern "C" __global__ void __launch_bounds__(Plain::THREADS) linear_plain(const __grid_constant__ LinearParams p) {
    __shared__ PlainShared shared;
    const u32 m0 = blockIdx.x / p.tiles_n * Plain::TILE, n0 = blockIdx.x % p.tiles_n * (GATED ? Plain::TILE / 2 : Plain::TILE);
    const u32 begin = blockIdx.z * p.split_depth, end = min(begin + p.split_depth, p.depth), k = begin + Plain::depth();

    RowSource<TX, 1> a(p.x, p.depth, k, end, [&](int) { return min(m0 + Plain::row(), p.rows - 1); });
    RowSource<TW, 1> b(p.weight, p.depth, k, end, [&](int) { return weight_row<Plain::TILE>(p, n0, Plain::row()); });
    float sums[Plain::PART_M][Plain::PART_N] = {};
    multiply_plain<ALIGNED>(sums, shared, a, b, (end - begin + Plain::DEPTH - 1) / Plain::DEPTH);
    each_plain_chunk<GATED>(sums, shared, Put{p, m0, n0});
}
#endif

#ifdef REDUCE
/// One thread per 8 columns.
extern "C" __global__ void __launch_bounds__(256) linear_reduce(const __grid_constant__ LinearParams p) {
    const u32 chunks = (p.columns + 7) / 8, item = blockIdx.x * 256 + threadIdx.x;
    const u32 row = item / chunks, column = item % chunks * 8;
    if (row >= p.rows) return;
    float v[8];
    partial_of(p).sum(v, p.splits, row, column);
    if constexpr (GATED) {
        float gates[8];
        partial_of(p).sum(gates, p.splits, row, pitch_of(p) / 2 + column);
        finish_of(p).put_gated(row, column, v, gates);
    } else {
        finish_of(p).put(row, column, v);
    }
}
#endif
