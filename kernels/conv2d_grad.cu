// Computes:         one gradient of z = conv(x), by PART. INPUT: that of the image that is convolved, after the resize. WEIGHT: that of the weight.
// Shapes and layout: dz [B,h,w,O], weight [O,kh,kw,C], x [B,H,W,C] before the resize; dx [B,H,W,C] of dz's type, dweight [O,kh,kw,C] f32.
//                   As a product of `rows` x `depth` and `depth` x `columns`: INPUT B H W, kh kw O, C; WEIGHT O, B h w, kh kw C.
// Work split:       as conv2d.cu. Nothing is scattered: INPUT gathers, for each pixel of x, the windows that hold it. Pixels STRIDE apart are
//                   held through the same taps: they are a class, and each of the STRIDE² classes is a product of its own, of few taps
//                   and with tiles of its own, all in one launch.
// Shared memory:    as conv2d.cu; operands that are not contiguous along the depth are tiles [k][m], which ldmatrix.trans reads.
// Numerics:         as conv2d.cu; sums in the order (ky, kx, o), or that of pixels.
// Specialised by:   PART, T (of dz), OUT (of the result), TILE_M, TILE_N, WARPS_M, WARPS_N, STAGES, ALIGNED (C and O are multiples of 8),
//                   WIDE (columns is), RESIZE (of x, in WEIGHT), STRIDE (in INPUT; else 1), SPLIT; plain: TX, TW.
// Entries:          conv2d_grad_tensor (bf16, f16), conv2d_grad_plain (f32, or types that differ).
// Gradient:         none
// Sources:          as conv2d.cu.
#include "dense.cuh"
#include "epilogue.cuh"
#include "params.cuh"
#include "windows.cuh"

enum Parts { INPUT, WEIGHT };

/// Those rows, or columns, of x that the same taps reach, and the first of these taps. Their gradient is a convolution of stride 1
/// backwards, which starts at `base`.
struct Axis {
    u32 first, count, first_tap, taps, base;

    /// Of `size` rows below `before` rows of padding; the class has the taps first_tap, first_tap + STRIDE, ... of all of them.
    static __forceinline__ Axis of(u32 first_tap, u32 size, u32 before, u32 all_taps) {
        // the first row at a distance of first_tap modulo STRIDE from the first one of padding
        u32 first = (first_tap + before * (STRIDE - 1)) % STRIDE;
        auto steps = [](u32 from, u32 end) { return from < end ? (end - from - 1) / STRIDE + 1 : 0; };
        return {first, steps(first, size), first_tap, steps(first_tap, all_taps), (first + before - first_tap) / STRIDE};
    }
};

/// The pixels of a class and the taps that reach them.
struct PixelClass {
    Axis y, x;
    u32 height, width; // of the whole of x

    static __forceinline__ PixelClass of(const Conv2dGradParams &p, u32 index) {
        const Geometry &g = p.geometry;
        return {Axis::of(index / STRIDE, g.out_height, g.top, p.kernel_height), Axis::of(index % STRIDE, g.out_width, g.left, g.kernel_width), g.out_height,
                g.out_width};
    }

    __forceinline__ u32 rows(u32 all) const { return STRIDE == 1 ? all : all / (height * width) * y.count * x.count; }

    __forceinline__ u32 depth(u32 outputs) const { return y.taps * x.taps * outputs; }

    /// The row of dx that is this one of the class.
    __forceinline__ u32 place(u32 row) const {
        if constexpr (STRIDE == 1) return row;
        u32 within = row % (y.count * x.count), image = row / (y.count * x.count);
        return (image * height + y.first + within / x.count * STRIDE) * width + x.first + within % x.count * STRIDE;
    }

    /// How dz is read for it.
    __forceinline__ Geometry windows(Geometry g) const {
        if constexpr (STRIDE == 1) return g;
        g.out_height = y.count, g.out_width = x.count;
        g.top = y.base, g.left = x.base;
        // of no taps there is nothing to read, but nothing to divide by either
        g.kernel_width = max(x.taps, 1u);
        return g;
    }
};

/// Stores 8 sums of a row. PLACED: as `pixels` say where.
template <bool PLACED> struct Finish {
    enum { GATES = false };
    u32 rows, columns;
    OUT *out;
    PixelClass pixels;

    __forceinline__ void put(u32 row, u32 column, const float (&v)[8]) const {
        if (row >= rows || column >= columns) return;
        u32 at = row;
        if constexpr (PLACED) at = pixels.place(row);
        put8<WIDE>(out + u64(at) * columns + column, v, columns - column);
    }
};

/// Those rows of the weight that a class's taps have, as a matrix of (ky, kx, o) and c, as a PLACE.
struct WeightPlace {
    u32 outputs, all_taps, kernel_width, channels;
    PixelClass pixels;

    __forceinline__ bool operator()(u32 k, u32 column, u32 &at) const {
        u32 tap = k / outputs, o = k % outputs;
        if constexpr (STRIDE > 1) tap = (pixels.y.first_tap + tap / pixels.x.taps * STRIDE) * kernel_width + pixels.x.first_tap + tap % pixels.x.taps * STRIDE;
        at = (o * all_taps + tap) * channels + column;
        return true;
    }
};

/// What a block has to do for INPUT.
struct Backwards {
    PixelClass pixels;
    Work work;
    u32 rows;

    static __forceinline__ Backwards of(const Conv2dGradParams &p, u32 tile_m, u32 tile_n) {
        Work work = Work::of(p.product, tile_m, tile_n);
        if constexpr (STRIDE == 1) return {{}, work, p.product.rows};
        const u32 index = work.m0 / tile_m / p.class_tiles;
        const PixelClass pixels = PixelClass::of(p, index);
        work.m0 -= index * p.class_tiles * tile_m;
        // parts are those of the class with most taps
        work.end = min(work.end, pixels.depth(p.geometry.channels));
        work.begin = min(work.begin, work.end);
        return {pixels, work, pixels.rows(p.product.rows)};
    }

    __forceinline__ Finish<(STRIDE > 1)> finish(const Conv2dGradParams &p) const { return {rows, p.product.columns, p.out, pixels}; }

    __forceinline__ WeightPlace weight(const Conv2dGradParams &p) const {
        return {p.geometry.channels, p.kernel_height * p.geometry.kernel_width, p.geometry.kernel_width, p.product.columns, pixels};
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

__forceinline__ Finish<false> finish_of(const Conv2dGradParams &p) { return {p.product.rows, p.product.columns, p.out, {}}; }

#ifdef TILE_M
typedef Product<TILE_M, TILE_N, WARPS_M, WARPS_N, STAGES, PART == WEIGHT, true> Tiles;

template <class TILE, class SOURCE> using Fill = Filler<TILE, SOURCE, Tiles::THREADS, ALIGNED>;

extern "C" __global__ void __launch_bounds__(Tiles::THREADS, ALIGNED ? Tiles::RESIDENT : 0) conv2d_grad_tensor(const __grid_constant__ Conv2dGradParams p) {
    extern __shared__ __align__(128) u8 shared[];
    const ProductParams &q = p.product;
    const T *dz = p.dz, *other = p.other;
    if constexpr (PART == INPUT) {
        const Backwards back = Backwards::of(p, TILE_M, TILE_N);
        const Work &work = back.work;
        if (work.m0 >= back.rows) return;
        typedef WindowSource<T, Tiles::CHUNKS_A, RESIZE_BACK> Windows;
        typedef Fill<Tiles::TileA, Windows> A;
        typedef Fill<Tiles::TileB, ColumnSource<T, WeightPlace>> B;
        const A a(along<A, Windows>(dz, back.pixels.windows(p.geometry), work, Within{work.m0, back.rows}));
        const B b(across<B>(other, back.weight(p), work, work.n0, q.columns));
        product<Tiles, T, SPLIT>(q, work, shared, a, b, back.finish(p));
    } else {
        const Work work = Work::of(q, TILE_M, TILE_N);
        typedef Fill<Tiles::TileA, ColumnSource<T, Dense>> A;
        typedef Fill<Tiles::TileB, ColumnSource<T, WindowPlace>> B;
        const A a(across<A>(dz, Dense{q.rows}, work, work.m0, q.rows));
        const B b(across<B>(other, WindowPlace{p.geometry}, work, work.n0, q.columns));
        product<Tiles, T, SPLIT>(q, work, shared, a, b, finish_of(p));
    }
}
#endif

#ifdef TX
extern "C" __global__ void __launch_bounds__(Plain::THREADS) conv2d_grad_plain(const __grid_constant__ Conv2dGradParams p) {
    const ProductParams &q = p.product;
    const TX *dz = p.dz;
    const TW *other = p.other;
    if constexpr (PART == INPUT) {
        typedef WindowSource<TX, 1, RESIZE_BACK> Windows;
        const Backwards back = Backwards::of(p, Plain::TILE, Plain::TILE);
        const Work &work = back.work;
        if (work.m0 >= back.rows) return;
        const auto a = along<Plain, Windows>(dz, back.pixels.windows(p.geometry), work, Within{work.m0, back.rows});
        plain_product<ALIGNED, SPLIT>(q, work, a, down(other, back.weight(p), work, work.n0, q.columns), back.finish(p));
    } else {
        const Work work = Work::of(q, Plain::TILE, Plain::TILE);
        const auto a = down(dz, Dense{q.rows}, work, work.m0, q.rows);
        plain_product<ALIGNED, SPLIT>(q, work, a, down(other, WindowPlace{p.geometry}, work, work.n0, q.columns), finish_of(p));
    }
}
#endif
