// Computes:         y = act(x · Wᵀ + bias) + residual, or gated: y = a · gelu(b) + residual of the two halves of x · Wᵀ + bias.
// Shapes and layout: x [rows, depth], W [columns, depth] (gated: [2 columns, depth], values first), bias f32, y and residual
//                   [rows, columns]; all row-major and dense.
// Work split:       one block per TILE_M x TILE_N of y, blocks of one row of tiles side by side; gridDim.z parts of depth, which the last
//                   block of each tile adds in their order. Gated: each warp holds values and gates of the same columns.
//                   linear_few: one block per FEW rows and 8 columns, whose threads share the depth; blocks of the same columns
//                   side by side.
// Shared memory:    STAGES stages of both operands, permuted; afterwards the warps' sums on their way to 16-byte stores.
// Numerics:         products of 16-bit values are exact, sums f32 in the order of depth; one rounding, at the store.
// Specialised by:   T (of x, y, W), TILE_M, TILE_N, WARPS_M, WARPS_N, STAGES, ALIGNED (depth is a multiple of 8), WIDE (columns is),
//                   ACTIVATION, GATED, SPLIT; linear_plain: TX, TW; linear_few: TX, TW, FEW.
// Entries:          linear_tensor (bf16, f16); f32, or types of x and W that differ: linear_plain, linear_few (rows that are no sequence).
// Gradient:         linear_grad.cu
// Sources:          CUTLASS, "Efficient GEMM in CUDA" (multistage pipeline); PTX ISA, mma.m16n8k16 and ldmatrix.
#include "dense.cuh"
#include "epilogue.cuh"
#include "few_rows.cuh"
#include "params.cuh"

__forceinline__ auto finish_of(const LinearParams &p) {
    typedef Epilogue<T, ACTIVATION, WIDE, false, GATED> Finish;
    return Finish{p.product.rows, p.product.columns, p.bias, nullptr, 1, p.residual, nullptr, p.negative, p.y};
}

__forceinline__ Work work_of(const LinearParams &p, u32 tile_m, u32 tile_n) { return Work::of(p.product, tile_m, GATED ? tile_n / 2 : tile_n); }

#ifdef TILE_M
typedef Product<TILE_M, TILE_N, WARPS_M, WARPS_N, STAGES> Tiles;

extern "C" __global__ void __launch_bounds__(Tiles::THREADS, Tiles::RESIDENT) linear_tensor(const __grid_constant__ LinearParams p) {
    extern __shared__ __align__(128) u8 shared[];
    typedef RowSource<T, Tiles::CHUNKS_A> Rows;
    typedef RowSource<T, Tiles::CHUNKS_B> Weights;
    typedef Filler<Tiles::TileA, Rows, Tiles::THREADS, ALIGNED> FillA;
    typedef Filler<Tiles::TileB, Weights, Tiles::THREADS, ALIGNED> FillB;
    const Work work = work_of(p, TILE_M, TILE_N);
    FillA a(along<FillA, Rows>(p.x, p.product.depth, work, Within{work.m0, p.product.rows}));
    FillB b(along<FillB, Weights>(p.weight, p.product.depth, work, WeightRow<GATED, Tiles::WARP_N>{work.n0, p.product.columns}));
    product<Tiles, T, SPLIT>(p.product, work, shared, a, b, finish_of(p));
}
#endif

#ifdef FEW
extern "C" __global__ void __launch_bounds__(FewRows::THREADS) linear_few(const __grid_constant__ LinearParams p) {
    const TX *x = p.x;
    const TW *weight = p.weight;
    const u32 row = blockIdx.x * FEW, column = blockIdx.y * FewRows::COLUMNS;
    float sums[FEW][8] = {};
    multiply_few(sums, x, weight, row, p.product.rows, column, p.product.columns, p.product.depth);
    // one thread for each row, without an index that is not known when the sums are in registers
#pragma unroll
    for (u32 r = 0; r < FEW; r++)
        if (threadIdx.x == r) finish_of(p).put(row + r, column, sums[r]);
}
#elif defined(TX)
extern "C" __global__ void __launch_bounds__(Plain::THREADS) linear_plain(const __grid_constant__ LinearParams p) {
    const Work work = work_of(p, Plain::TILE, Plain::TILE);
    auto a = along<Plain, RowSource<TX, 1>>(p.x, p.product.depth, work, Within{work.m0, p.product.rows});
    auto b = along<Plain, RowSource<TW, 1>>(p.weight, p.product.depth, work, WeightRow<GATED, Plain::TILE>{work.n0, p.product.columns});
    plain_product<ALIGNED, SPLIT>(p.product, work, a, b, finish_of(p));
}
#endif
