// Computes:         y = act(conv(x) + bias + row_bias + residual), x resized by nearest neighbour before if asked for.
// Shapes and layout: x [B,H,W,C] or, of a 1x1 convolution, in two parts of the channels; weight [O,kh,kw,C], bias and slope [O] f32,
//                   row_bias [B,O], residual and y [B,h,w,O]; dense.
// Work split:       an implicit product of B h w windows of kh kw C values with the weights: one block per TILE_M windows and TILE_N
//                   outputs, blocks of the same windows side by side; gridDim.z parts of depth, which the last block of each tile adds.
// Shared memory:    STAGES stages of windows and weights, permuted; afterwards the warps' sums on their way to 16-byte stores.
// Numerics:         products of 16-bit values are exact, sums f32 in the order (ky, kx, channel); one rounding, at the store.
// Specialised by:   T (of x, y), TILE_M, TILE_N, WARPS_M, WARPS_N, STAGES, ALIGNED (C is a multiple of 8), WIDE (O is), RESIZE
//                   or PARTS (of x, two), ACTIVATION, SPLIT; conv2d_plain: TX, TW.
// Entries:          conv2d_tensor (bf16, f16), conv2d_plain (f32, or types of x and weight that differ).
// Gradient:         conv2d_grad.cu
// Sources:          Chetlur et al. 2014, "cuDNN" (implicit product); CUTLASS, implicit GEMM convolution.
#include "dense.cuh"
#include "epilogue.cuh"
#include "params.cuh"
#include "windows.cuh"

__forceinline__ auto finish_of(const Conv2dParams &p) {
    typedef Epilogue<T, ACTIVATION, WIDE, true> Finish;
    u32 pixels = p.geometry.out_height * p.geometry.out_width;
    return Finish{p.product.rows, p.product.columns, p.bias, p.row_bias, pixels, p.residual, p.slope, p.negative, p.y};
}

#ifdef PARTS
/// COUNT pixels of an image whose channels are in two parts.
template <typename V, int COUNT> using Image = BesideSource<V, COUNT>;
template <typename V> __forceinline__ Beside<V> shape_of(const Conv2dParams &p) {
    return Beside<V>{p.beside, p.geometry.channels, p.product.depth - p.geometry.channels};
}
#else
/// COUNT windows of an image.
template <typename V, int COUNT> using Image = WindowSource<V, COUNT, RESIZE>;
template <typename V> __forceinline__ const Geometry &shape_of(const Conv2dParams &p) { return p.geometry; }
#endif

#ifdef TILE_M
typedef Product<TILE_M, TILE_N, WARPS_M, WARPS_N, STAGES> Tiles;

extern "C" __global__ void __launch_bounds__(Tiles::THREADS, Tiles::RESIDENT) conv2d_tensor(const __grid_constant__ Conv2dParams p) {
    extern __shared__ __align__(128) u8 shared[];
    typedef Image<T, Tiles::CHUNKS_A> Windows;
    typedef RowSource<T, Tiles::CHUNKS_B> Weights;
    typedef Filler<Tiles::TileA, Windows, Tiles::THREADS, ALIGNED> FillA;
    typedef Filler<Tiles::TileB, Weights, Tiles::THREADS, ALIGNED> FillB;
    const Work work = Work::of(p.product, TILE_M, TILE_N);
    FillA a(along<FillA, Windows>(p.x, shape_of<T>(p), work, Within{work.m0, p.product.rows}));
    FillB b(along<FillB, Weights>(p.weight, p.product.depth, work, Within{work.n0, p.product.columns}));
    product<Tiles, T, SPLIT>(p.product, work, shared, a, b, finish_of(p));
}
#endif

#ifdef TX
// unless told how many blocks are enough, ptxas makes room for a fifth on sm_120, and spills
extern "C" __global__ void __launch_bounds__(Plain::THREADS, 4) conv2d_plain(const __grid_constant__ Conv2dParams p) {
    const Work work = Work::of(p.product, Plain::TILE, Plain::TILE);
    auto a = along<Plain, Image<TX, 1>>(p.x, shape_of<TX>(p), work, Within{work.m0, p.product.rows});
    auto b = along<Plain, RowSource<TW, 1>>(p.weight, p.product.depth, work, Within{work.n0, p.product.columns});
    plain_product<ALIGNED, SPLIT>(p.product, work, a, b, finish_of(p));
}
#endif
