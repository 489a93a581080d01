// Computes:         one gradient of z = conv(x), by PART. INPUT: that of the image that is convolved, after the resize. WEIGHT: that of the weight.
// Shapes and layout: dz [B,h,w,O], weight [O,kh,kw,C], x [B,H,W,C] before the resize; dx [B,H,W,C] of dz's type, dweight [O,kh,kw,C] f32.
//                   As a product of `rows` x `depth` and `depth` x `columns`: INPUT B H W, kh kw O, C; WEIGHT O, B h w, kh kw C.
// Work split:       as conv2d.cu. Nothing is scattered: INPUT gathers, for each pixel of x, the windows that hold it.
// Shared memory:    as conv2d.cu; operands that are not contiguous along the depth are tiles [k][m], which ldmatrix.trans reads.
// Numerics:         as conv2d.cu; sums in the order (ky, kx, o), or that of pixels.
// Specialised by:   PART, T (of dz), OUT (of the result), TILE_M, TILE_N, WARPS_M, WARPS_N, STAGES, ALIGNED (C and O are multiples of 8),
//                   WIDE (columns is), RESIZE (of x, in WEIGHT), SPLIT; plain: TX, TW.
// Entries:          conv2d_grad_tensor (bf16, f16), conv2d_grad_plain (f32, or types that differ).
// Gradient:         none
// Sources:          as conv2d.cu.
#include "dense.cuh"
#include "epilogue.cuh"
#include "params.cuh"
#include "windows.cuh"

enum Parts { INPUT, WEIGHT };

/// Stores 8 sums of a row.
struct Finish {
    enum { GATES = false };
    u32 rows, columns;
    OUT *out;

    __forceinline__ void put(u32 row, u32 column, const float (&v)[8]) const {
        if (row < rows && column < columns) put8<WIDE>(out + u64(row) * columns + column, v, columns - column);
    }
};

__forceinline__ Finish finish_of(const Conv2dGradParams &p) { return Finish{p.product.rows, p.product.columns, p.out}; }

/// The weight as a matrix of (ky, kx, o) and c, as a PLACE.
struct WeightPlace {
    u32 outputs, taps, channels;

    __forceinline__ bool operator()(u32 k, u32 column, u32 &at) const {
        u32 tap = k / outputs, o = k % outputs;
        at = (o * taps + tap) * channels + column;
        return true;
    }
};

/// Windows of x as a matrix of pixels and (ky, kx, c), as a PLACE.
struct WindowPlace {
    Geometry g;

    __forceinline__ bool operator()(u32 k, u32 column, u32 &at) const {
        u32 tap = column / g.channels, pixel;
        bool valid = window_pixel<RESIZE>(g, k, tap / g.kernel_width, tap % g.kernel_width, pixel);
        at = pixel * g.channels + column % g.channels;
        return valid;
    }
};

__forceinline__ WeightPlace weight_place(const Conv2dGradParams &p) {
    return WeightPlace{p.geometry.channels, p.product.depth / p.geometry.channels, p.product.columns};
}

#ifdef TILE_M
typedef Product<TILE_M, TILE_N, WARPS_M, WARPS_N, STAGES, PART == WEIGHT, true> Tiles;

template <class TILE, class SOURCE> using Fill = Filler<TILE, SOURCE, Tiles::THREADS, ALIGNED>;

extern "C" __global__ void __launch_bounds__(Tiles::THREADS) conv2d_grad_tensor(const __grid_constant__ Conv2dGradParams p) {
    extern __shared__ __align__(128) u8 shared[];
    const Work work = Work::of(p.product, TILE_M, TILE_N);
    const ProductParams &q = p.product;
    const T *dz = p.dz, *other = p.other;
    auto run = [&](auto a, auto b) { product<Tiles, T, SPLIT>(q, work, shared, a, b, finish_of(p)); };
    if constexpr (PART == INPUT) {
        typedef WindowSource<T, Tiles::CHUNKS_A, RESIZE_BACK> Windows;
        typedef Fill<Tiles::TileA, Windows> A;
        typedef Fill<Tiles::TileB, ColumnSource<T, WeightPlace>> B;
        run(A(along<A, Windows>(dz, p.geometry, work, Within{work.m0, q.rows})), B(across<B>(other, weight_place(p), work, work.n0, q.columns)));
    } else {
        typedef Fill<Tiles::TileA, ColumnSource<T, Dense>> A;
        typedef Fill<Tiles::TileB, ColumnSource<T, WindowPlace>> B;
        run(A(across<A>(dz, Dense{q.rows}, work, work.m0, q.rows)), B(across<B>(other, WindowPlace{p.geometry}, work, work.n0, q.columns)));
    }
}
#endif

#ifdef TX
extern "C" __global__ void __launch_bounds__(Plain::THREADS) conv2d_grad_plain(const __grid_constant__ Conv2dGradParams p) {
    const Work work = Work::of(p.product, Plain::TILE, Plain::TILE);
    const ProductParams &q = p.product;
    const TX *dz = p.dz;
    const TW *other = p.other;
    auto run = [&](auto a, auto b) { plain_product<ALIGNED, SPLIT>(q, work, a, b, finish_of(p)); };
    if constexpr (PART == INPUT) {
        typedef WindowSource<TX, 1, RESIZE_BACK> Windows;
        run(along<Plain, Windows>(dz, p.geometry, work, Within{work.m0, q.rows}), down(other, weight_place(p), work, work.n0, q.columns));
    } else {
        run(down(dz, Dense{q.rows}, work, work.m0, q.rows), down(other, WindowPlace{p.geometry}, work, work.n0, q.columns));
    }
}
#endif
