// Computes:         one gradient of z = conv(x), by PART. INPUT: that of the image that is convolved, after the resize. WEIGHT: that of the weight.
// Shapes and layout: dz [B,h,w,O], weight [O,kh,kw,C], x [B,H,W,C] before the resize; dx [B,H,W,C] of dz's type, dweight [O,kh,kw,C] f32.
//                   As a product of `rows` x `depth` and `depth` x `columns`: INPUT B H W, kh kw O, C; WEIGHT O, B h w, kh kw C.
// Work split:       as conv2d.cu. Nothing is scattered: INPUT gathers, for each pixel of x, the windows that hold it.
// Shared memory:    as conv2d.cu; operands that are not contiguous along the depth are tiles [k][m], which ldmatrix.trans reads.
// Numerics:         as conv2d.cu; sums in the order (ky, kx, o), or that of pixels.
// Specialised by:   PART, T (of dz), OUT (of the result), TILE_M, TILE_N, WARPS_M, WARPS_N, STAGES, ALIGNED (C and O are multiples of 8),
//                   WIDE (columns is), RESIZE (of x, in WEIGHT), SPLIT; plain: TX, TW.
// Entries:          conv2d_grad_tensor (bf16, f16), conv2d_grad_plain (f32, or types that differ), conv2d_grad_reduce (after SPLIT).
// Gradient:         none
// Sources:          as conv2d.cu.
#include "dense.cuh"
#include "epilogue.cuh"
#include "params.cuh"
#include "windows.cuh"

enum Parts { INPUT, WEIGHT };

__forceinline__ Partial partial_of(const Conv2dGradParams &p) { return Partial{p.partial, p.rows, (p.columns + 15) / 16 * 16}; }

__forceinline__ void finish(const Conv2dGradParams &p, u32 row, u32 column, const float (&v)[8]) {
    if (row >= p.rows || column >= p.columns) return;
    OUT *out = p.out;
    put8<WIDE>(out + u64(row) * p.columns + column, v, p.columns - column);
}

/// Stores the sums of a tile that starts at (m0, n0): finished, or as one part of several.
struct Put {
    const Conv2dGradParams &p;
    u32 m0, n0;

    __forceinline__ void operator()(u32 row, u32 chunk, const float (&v)[8]) const {
        if constexpr (SPLIT) partial_of(p).put(blockIdx.z, m0 + row, n0 + 8 * chunk, v);
        else finish(p, m0 + row, n0 + 8 * chunk, v);
    }
};

#ifndef REDUCE
__forceinline__ Geometry geometry_of(const Conv2dGradParams &p) {
    return Geometry{p.height, p.width, p.channels, p.resized_height, p.resized_width, p.kernel_width, p.stride, p.top, p.left, p.out_height, p.out_width};
}

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

__forceinline__ WeightPlace weight_place(const Conv2dGradParams &p) { return WeightPlace{p.channels, p.depth / p.channels, p.columns}; }
#endif

#ifdef TILE_M
typedef Product<TILE_M, TILE_N, WARPS_M, WARPS_N, STAGES, PART == WEIGHT, true> Tiles;

template <class TILE, class SOURCE> using Fill = Filler<TILE, SOURCE, Tiles::THREADS, ALIGNED>;

extern "C" __global__ void __launch_bounds__(Tiles::THREADS) conv2d_grad_tensor(const __grid_constant__ Conv2dGradParams p) {
    extern __shared__ __align__(128) u8 shared[];
    const u32 m0 = blockIdx.x / p.tiles_n * TILE_M, n0 = blockIdx.x % p.tiles_n * TILE_N;
    const Part part = Part::of(p.depth, p.split_depth);
    const T *dz = p.dz, *other = p.other;
    Sums<Tiles> sums;
    auto run = [&](auto a, auto b) { multiply<Tiles, T>(sums, shared, a, b, part.steps(Tiles::DEPTH)); };
    if constexpr (PART == INPUT) {
        typedef WindowSource<T, Tiles::CHUNKS_A, RESIZE_BACK> Windows;
        typedef Fill<Tiles::TileA, Windows> A;
        typedef Fill<Tiles::TileB, ColumnSource<T, WeightPlace>> B;
        auto pixel = [&](int i) { return min(m0 + A::row() + i * A::STEP, p.rows - 1); };
        run(A(Windows(dz, geometry_of(p), part.begin + A::chunk() * 8, part.end, pixel)), B(across<B>(other, weight_place(p), part, n0, p.columns)));
    } else {
        typedef Fill<Tiles::TileA, ColumnSource<T, Dense>> A;
        typedef Fill<Tiles::TileB, ColumnSource<T, WindowPlace>> B;
        run(A(across<A>(dz, Dense{p.rows}, part, m0, p.rows)), B(across<B>(other, WindowPlace{geometry_of(p)}, part, n0, p.columns)));
    }
    each_chunk<Tiles, false>(sums, shared, Put{p, m0, n0});
}
#endif

#ifdef TX
extern "C" __global__ void __launch_bounds__(Plain::THREADS) conv2d_grad_plain(const __grid_constant__ Conv2dGradParams p) {
    __shared__ PlainShared shared;
    const u32 m0 = blockIdx.x / p.tiles_n * Plain::TILE, n0 = blockIdx.x % p.tiles_n * Plain::TILE;
    const Part part = Part::of(p.depth, p.split_depth);
    const u32 k = part.begin + Plain::depth(), row = m0 + Plain::row(), column = n0 + Plain::row();
    const TX *dz = p.dz;
    const TW *other = p.other;
    float sums[Plain::PART_M][Plain::PART_N] = {};
    auto run = [&](auto a, auto b) { multiply_plain<ALIGNED>(sums, shared, a, b, part.steps(Plain::DEPTH)); };
    if constexpr (PART == INPUT) {
        run(WindowSource<TX, 1, RESIZE_BACK>(dz, geometry_of(p), k, part.end, [&](int) { return min(row, p.rows - 1); }),
            ColumnSource<TW, WeightPlace>(other, weight_place(p), k, 0, part.end, column, p.columns));
    } else {
        run(ColumnSource<TX, Dense>(dz, Dense{p.rows}, k, 0, part.end, row, p.rows),
            ColumnSource<TW, WindowPlace>(other, WindowPlace{geometry_of(p)}, k, 0, part.end, column, p.columns));
    }
    each_plain_chunk<false>(sums, shared, Put{p, m0, n0});
}
#endif

#ifdef REDUCE
/// One thread per 8 columns.
extern "C" __global__ void __launch_bounds__(256) conv2d_grad_reduce(const __grid_constant__ Conv2dGradParams p) {
    const u32 chunks = (p.columns + 7) / 8, item = blockIdx.x * 256 + threadIdx.x;
    const u32 row = item / chunks, column = item % chunks * 8;
    if (row >= p.rows) return;
    float v[8];
    partial_of(p).sum(v, p.splits, row, column);
    finish(p, row, column, v);
}
#endif
