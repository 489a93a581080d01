// Computes:         one gradient of y = act(x · Wᵀ + bias), by PART. SUM: dz = dy · act'(z), z = x · Wᵀ + bias computed again (gated: for
//                   z = (a, b) of a · gelu(b), both halves). INPUT: dx = dz · W. WEIGHT: dW = dzᵀ · x.
// Shapes and layout: x [M,K], W [N,K], bias [N] f32, dy [M,N] (gated [M,N/2]), dz [M,N]; dx like x, dW [N,K] f32; all row-major and dense.
//                   As a product of `rows` x `depth` and `depth` x `columns`: SUM M,K,N (gated N/2); INPUT M,N,K; WEIGHT N,M,K.
// Work split:       as linear.cu.
// Shared memory:    as linear.cu; operands that are not contiguous along the depth are tiles [k][m], which ldmatrix.trans reads.
// Numerics:         as linear.cu; functions of z and their derivatives to about 2 ulp (act.cuh).
// Specialised by:   PART, T (of x, dz, W), OUT (of the result), TILE_M, TILE_N, WARPS_M, WARPS_N, STAGES, ALIGNED (every row starts at a
//                   multiple of 16 bytes), WIDE (columns is a multiple of 8), ACTIVATION, GATED, SPLIT; plain: TX, TW.
// Entries:          linear_grad_tensor (bf16, f16), linear_grad_plain (f32, or types that differ).
// Gradient:         none
// Sources:          as linear.cu.
#include "dense.cuh"
#include "epilogue.cuh"
#include "params.cuh"

enum Parts { SUM, INPUT, WEIGHT };

/// What becomes of 8 sums of a row: in SUM dz, gated both of its halves.
struct Finish {
    enum { GATES = GATED };
    u32 rows, columns;
    const float *bias;
    const T *dy;
    OUT *out;
    float negative;

    __forceinline__ void put(u32 row, u32 column, float (&v)[8]) const {
        if (row >= rows || column >= columns) return;
        u32 count = columns - column;
        u64 at = u64(row) * columns + column;
        if constexpr (PART == SUM) {
            float g[8] = {};
            if (bias) add8<WIDE>(v, bias + column, count);
            add8<WIDE>(g, dy + at, count);
#pragma unroll
            for (int e = 0; e < 8; e++) v[e] = g[e] * activate_grad<ACTIVATION>(v[e], negative);
        }
        put8<WIDE>(out + at, v, count);
    }

    __forceinline__ void put_gated(u32 row, u32 column, float (&v)[8], float (&gates)[8]) const {
        if (row >= rows || column >= columns) return;
        u32 count = columns - column;
        float g[8] = {};
        if (bias) {
            add8<WIDE>(v, bias + column, count);
            add8<WIDE>(gates, bias + columns + column, count);
        }
        add8<WIDE>(g, dy + u64(row) * columns + column, count);
#pragma unroll
        for (int e = 0; e < 8; e++) {
            float value = v[e];
            v[e] = g[e] * activate<ACT_GELU>(gates[e]);
            gates[e] = g[e] * value * activate_grad<ACT_GELU>(gates[e]);
        }
        OUT *to = out + u64(row) * 2 * columns + column;
        put8<WIDE>(to, v, count);
        put8<WIDE>(to + columns, gates, count);
    }
};

__forceinline__ Finish finish_of(const LinearGradParams &p) {
    return Finish{p.product.rows, p.product.columns, p.bias, p.dy, p.out, p.negative};
}

__forceinline__ Work work_of(const LinearGradParams &p, u32 tile_m, u32 tile_n) { return Work::of(p.product, tile_m, GATED ? tile_n / 2 : tile_n); }

#ifdef TILE_M
typedef Product<TILE_M, TILE_N, WARPS_M, WARPS_N, STAGES, PART == WEIGHT, PART != SUM> Tiles;

template <class TILE, class SOURCE> using Fill = Filler<TILE, SOURCE, Tiles::THREADS, ALIGNED>;

extern "C" __global__ void __launch_bounds__(Tiles::THREADS, Tiles::RESIDENT) linear_grad_tensor(const __grid_constant__ LinearGradParams p) {
    extern __shared__ __align__(128) u8 shared[];
    const Work work = work_of(p, TILE_M, TILE_N);
    const ProductParams &q = p.product;
    const T *left = p.a, *right = p.b;
    typedef RowSource<T, Tiles::CHUNKS_A> RowsA;
    typedef RowSource<T, Tiles::CHUNKS_B> RowsB;
    typedef ColumnSource<T, Dense> Columns;
    auto run = [&](auto a, auto b) { product<Tiles, T, SPLIT>(q, work, shared, a, b, finish_of(p)); };
    if constexpr (PART == WEIGHT) {
        typedef Fill<Tiles::TileA, Columns> A;
        typedef Fill<Tiles::TileB, Columns> B;
        run(A(across<A>(left, Dense{q.rows}, work, work.m0, q.rows)), B(across<B>(right, Dense{q.columns}, work, work.n0, q.columns)));
    } else {
        typedef Fill<Tiles::TileA, RowsA> A;
        A a(along<A, RowsA>(left, q.depth, work, Within{work.m0, q.rows}));
        if constexpr (PART == INPUT) {
            typedef Fill<Tiles::TileB, Columns> B;
            run(a, B(across<B>(right, Dense{q.columns}, work, work.n0, q.columns)));
        } else {
            typedef Fill<Tiles::TileB, RowsB> B;
            run(a, B(along<B, RowsB>(right, q.depth, work, WeightRow<GATED, Tiles::WARP_N>{work.n0, q.columns})));
        }
    }
}
#endif

#ifdef TX
// four blocks: left to itself, ptxas aims at five and spills on some devices
extern "C" __global__ void __launch_bounds__(Plain::THREADS, 4) linear_grad_plain(const __grid_constant__ LinearGradParams p) {
    const Work work = work_of(p, Plain::TILE, Plain::TILE);
    const ProductParams &q = p.product;
    const TX *left = p.a;
    const TW *right = p.b;
    auto run = [&](auto a, auto b) { plain_product<ALIGNED, SPLIT>(q, work, a, b, finish_of(p)); };
    if constexpr (PART == WEIGHT) {
        run(down(left, Dense{q.rows}, work, work.m0, q.rows), down(right, Dense{q.columns}, work, work.n0, q.columns));
    } else {
        auto a = along<Plain, RowSource<TX, 1>>(left, q.depth, work, Within{work.m0, q.rows});
        if constexpr (PART == INPUT) run(a, down(right, Dense{q.columns}, work, work.n0, q.columns));
        else run(a, along<Plain, RowSource<TW, 1>>(right, q.depth, work, WeightRow<GATED, Plain::TILE>{work.n0, q.columns}));
    }
}
#endif
