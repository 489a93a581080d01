// Computes:         one gradient of y = act(x · Wᵀ + bias), by PART. SUM: dz = dy · act'(z), z = x · Wᵀ + bias computed again (gated: for
//                   z = (a, b) of a · gelu(b), both halves). INPUT: dx = dz · W. WEIGHT: dW = dzᵀ · x.
// Shapes and layout: x [M,K], W [N,K], bias [N] f32, dy [M,N] (gated [M,N/2]), dz [M,N]; dx like x, dW [N,K] f32; all row-major and dense.
//                   As a product of `rows` x `depth` and `depth` x `columns`: SUM M,K,N; INPUT M,N,K; WEIGHT N,M,K.
// Work split:       as linear.cu.
// Shared memory:    as linear.cu; operands that are not contiguous along the depth are tiles [k][m], which ldmatrix.trans reads.
// Numerics:         as linear.cu; functions of z and their derivatives to about 2 ulp (act.cuh).
// Specialised by:   PART, T (of x, dz, W), OUT (of the result), TILE_M, TILE_N, WARPS_M, WARPS_N, STAGES, ALIGNED (every row starts at a
//                   multiple of 16 bytes), WIDE (columns is a multiple of 8; gated: half of them), ACTIVATION, GATED, SPLIT; plain: TX, TW.
// Entries:          linear_grad_tensor (bf16, f16), linear_grad_plain (f32, or types that differ), linear_grad_reduce (after SPLIT).
// Gradient:         none
// Sources:          as linear.cu.
#include "dense.cuh"
#include "epilogue.cuh"
#include "params.cuh"

enum Parts { SUM, INPUT, WEIGHT };

__forceinline__ u32 half_of(const LinearGradParams &p) { return GATED ? p.columns / 2 : p.columns; }

__forceinline__ Partial partial_of(const LinearGradParams &p) { return Partial{p.partial, p.rows, (half_of(p) + 15) / 16 * 16 * (GATED ? 2 : 1)}; }

/// Stores 8 finished values of a row.
__forceinline__ void put_row(const LinearGradParams &p, u32 row, u32 column, const float (&v)[8], u32 count) {
    OUT *out = p.out;
    put8<WIDE>(out + u64(row) * p.columns + column, v, count);
}

/// From 8 sums of a row; in SUM they become dz.
__forceinline__ void finish(const LinearGradParams &p, u32 row, u32 column, float (&v)[8]) {
    if (row >= p.rows || column >= p.columns) return;
    u32 count = p.columns - column;
    if constexpr (PART == SUM) {
        const float *bias = p.bias;
        const T *dy = p.dy;
        float g[8] = {};
        if (bias) add8<WIDE>(v, bias + column, count);
        add8<WIDE>(g, dy + u64(row) * p.columns + column, count);
#pragma unroll
        for (int e = 0; e < 8; e++) v[e] = g[e] * activate_grad<ACTIVATION>(v[e], p.negative);
    }
    put_row(p, row, column, v, count);
}

/// The same of a gated layer: values and gates become their gradients.
__forceinline__ void finish(const LinearGradParams &p, u32 row, u32 column, float (&v)[8], float (&gates)[8]) {
    u32 half = half_of(p);
    if (row >= p.rows || column >= half) return;
    u32 count = half - column;
    const float *bias = p.bias;
    const T *dy = p.dy;
    float g[8] = {};
    if (bias) {
        add8<WIDE>(v, bias + column, count);
        add8<WIDE>(gates, bias + half + column, count);
    }
    add8<WIDE>(g, dy + u64(row) * half + column, count);
#pragma unroll
    for (int e = 0; e < 8; e++) {
        float value = v[e];
        v[e] = g[e] * activate<ACT_GELU>(gates[e]);
        gates[e] = g[e] * value * activate_grad<ACT_GELU>(gates[e]);
    }
    put_row(p, row, column, v, count);
    put_row(p, row, half + column, gates, count);
}

/// Stores the sums of a tile that starts at (m0, n0): finished, or as one part of several.
struct Put {
    const LinearGradParams &p;
    u32 m0, n0;

    __forceinline__ void operator()(u32 row, u32 chunk, float (&v)[8]) const {
        if constexpr (SPLIT) partial_of(p).put(blockIdx.z, m0 + row, n0 + 8 * chunk, v);
        else finish(p, m0 + row, n0 + 8 * chunk, v);
    }

    __forceinline__ void operator()(u32 row, u32 chunk, float (&v)[8], float (&gates)[8]) const {
        u32 column = n0 + 8 * chunk;
        if constexpr (SPLIT) {
            if (column >= half_of(p)) return;
            partial_of(p).put(blockIdx.z, m0 + row, column, v);
            partial_of(p).put(blockIdx.z, m0 + row, partial_of(p).pitch / 2 + column, gates);
        } else {
            finish(p, m0 + row, column, v, gates);
        }
    }
};

/// Row of W that is row r of a block's tile in SUM, as in linear.cu.
template <int WARP> __forceinline__ u32 weight_row(const LinearGradParams &p, u32 first, u32 r) {
    if constexpr (!GATED) return min(first + r, p.columns - 1);
    u32 within = r % WARP, half = half_of(p), column = min(first + r / WARP * (WARP / 2) + within % (WARP / 2), half - 1);
    return within < WARP / 2 ? column : half + column;
}

#ifdef TILE_M
typedef Product<TILE_M, TILE_N, WARPS_M, WARPS_N, STAGES, PART == WEIGHT, PART != SUM> Tiles;

template <class TILE, class SOURCE> using Fill = Filler<TILE, SOURCE, Tiles::THREADS, ALIGNED>;

extern "C" __global__ void __launch_bounds__(Tiles::THREADS) linear_grad_tensor(const __grid_constant__ LinearGradParams p) {
    extern __shared__ __align__(128) u8 shared[];
    const u32 m0 = blockIdx.x / p.tiles_n * TILE_M, n0 = blockIdx.x % p.tiles_n * (GATED ? TILE_N / 2 : TILE_N);
    const Part part = Part::of(p.depth, p.split_depth);
    const T *left = p.a, *right = p.b;
    typedef RowSource<T, Tiles::CHUNKS_A> RowsA;
    typedef RowSource<T, Tiles::CHUNKS_B> RowsB;
    typedef ColumnSource<T, Dense> Columns;
    Sums<Tiles> sums;
    auto run = [&](auto a, auto b) { multiply<Tiles, T>(sums, shared, a, b, part.steps(Tiles::DEPTH)); };
    if constexpr (PART == WEIGHT) {
        typedef Fill<Tiles::TileA, Columns> A;
        typedef Fill<Tiles::TileB, Columns> B;
        run(A(across<A>(left, Dense{p.rows}, part, m0, p.rows)), B(across<B>(right, Dense{p.columns}, part, n0, p.columns)));
    } else {
        typedef Fill<Tiles::TileA, RowsA> A;
        A a(along<A, T, Tiles::CHUNKS_A>(left, p.depth, part, [&](u32 r) { return min(m0 + r, p.rows - 1); }));
        if constexpr (PART == INPUT) {
            typedef Fill<Tiles::TileB, Columns> B;
            run(a, B(across<B>(right, Dense{p.columns}, part, n0, p.columns)));
        } else {
            typedef Fill<Tiles::TileB, RowsB> B;
            run(a, B(along<B, T, Tiles::CHUNKS_B>(right, p.depth, part, [&](u32 r) { return weight_row<Tiles::WARP_N>(p, n0, r); })));
        }
    }
    each_chunk<Tiles, GATED>(sums, shared, Put{p, m0, n0});
}
#endif

#ifdef TX
extern "C" __global__ void __launch_bounds__(Plain::THREADS) linear_grad_plain(const __grid_constant__ LinearGradParams p) {
    __shared__ PlainShared shared;
    const u32 m0 = blockIdx.x / p.tiles_n * Plain::TILE, n0 = blockIdx.x % p.tiles_n * (GATED ? Plain::TILE / 2 : Plain::TILE);
    const Part part = Part::of(p.depth, p.split_depth);
    const u32 k = part.begin + Plain::depth(), row = m0 + Plain::row(), column = n0 + Plain::row();
    const TX *left = p.a;
    const TW *right = p.b;
    float sums[Plain::PART_M][Plain::PART_N] = {};
    auto run = [&](auto a, auto b) { multiply_plain<ALIGNED>(sums, shared, a, b, part.steps(Plain::DEPTH)); };
    if constexpr (PART == WEIGHT) {
        run(ColumnSource<TX, Dense>(left, Dense{p.rows}, k, 0, part.end, row, p.rows),
            ColumnSource<TW, Dense>(right, Dense{p.columns}, k, 0, part.end, column, p.columns));
    } else {
        RowSource<TX, 1> a(left, p.depth, k, part.end, [&](int) { return min(row, p.rows - 1); });
        if constexpr (PART == INPUT) run(a, ColumnSource<TW, Dense>(right, Dense{p.columns}, k, 0, part.end, column, p.columns));
        else run(a, RowSource<TW, 1>(right, p.depth, k, part.end, [&](int) { return weight_row<Plain::TILE>(p, n0, Plain::row()); }));
    }
    each_plain_chunk<GATED>(sums, shared, Put{p, m0, n0});
}
#endif

#ifdef REDUCE
/// One thread per 8 columns.
extern "C" __global__ void __launch_bounds__(256) linear_grad_reduce(const __grid_constant__ LinearGradParams p) {
    const u32 chunks = (half_of(p) + 7) / 8, item = blockIdx.x * 256 + threadIdx.x;
    const u32 row = item / chunks, column = item % chunks * 8;
    if (row >= p.rows) return;
    float v[8];
    partial_of(p).sum(v, p.splits, row, column);
    if constexpr (GATED) {
        float gates[8];
        partial_of(p).sum(gates, p.splits, row, partial_of(p).pitch / 2 + column);
        finish(p, row, column, v, gates);
    } else {
        finish(p, row, column, v);
    }
}
#endif
