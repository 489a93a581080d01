// Gradients of attention on tensor cores: a warp has 16 of the block's own rows (queries or keys), the other side passes by in stages.
// Included by attention_grad.cu, whose header describes it.
#pragma once
#include "epilogue.cuh"

enum { WARPS = 4, THREADS = 32 * WARPS, OWN = 16 * WARPS };
typedef Tile<OWN, HEAD> TileOwn;
typedef Tile<STAGE_ROWS, HEAD> TileStep;
/// Two tiles of own rows, then stages of two tiles each.
enum { AT_STAGES = 2 * int(TileOwn::BYTES), STAGE_BYTES = 2 * int(TileStep::BYTES) };

/// Own rows by rows of a stage, as mma lays sums out; and sums over the rows of stages.
typedef float Scores[STAGE_ROWS / 8][4];
typedef float Gradient[HEAD / 8][4];

/// Brings pairs of tiles, rows `step` STAGE_ROWS of two tensors, through the stages.
struct Stages {
    u8 *shared;
    HeadRows<const T> first, second;
    u32 begin, end;

    __forceinline__ void bring(u32 step) const {
        if (begin + step * STAGE_ROWS < end) {
            u32 offset = AT_STAGES + step % STAGES * STAGE_BYTES;
            fill_rows<TileStep, THREADS, ALIGNED>(shared, offset, first, begin + step * STAGE_ROWS);
            fill_rows<TileStep, THREADS, ALIGNED>(shared, offset + TileStep::BYTES, second, begin + step * STAGE_ROWS);
        }
        ptx::cp_async_commit();
    }

    /// Runs `use(tile of first, tile of second, first row)` for every stage. bring(0) has been called.
    template <class USE> __forceinline__ void each(USE use) const {
        for (u32 step = 0; begin + step * STAGE_ROWS < end; step++) {
            ptx::cp_async_wait<0>();
            __syncthreads();
            if (STAGES > 1) bring(step + 1);
            u32 tile = ptx::shared_address(shared) + AT_STAGES + step % STAGES * STAGE_BYTES;
            use(tile, tile + TileStep::BYTES, begin + step * STAGE_ROWS);
            if (STAGES == 1) {
                __syncthreads();
                bring(step + 1);
            }
        }
        ptx::cp_async_wait<0>();
        __syncthreads();
    }
};

/// s = this warp's own rows · rows of a stage.
__forceinline__ void score(Scores &s, u32 own, u32 stage) {
    const Lane<TileOwn> down = Lane<TileOwn>::down();
    const Lane<TileStep> across = Lane<TileStep>::across();
#pragma unroll
    for (int n = 0; n < STAGE_ROWS / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) s[n][e] = 0.0f;
#pragma unroll
    for (int d = 0; d < HEAD / 16; d++) {
        u32 a[4];
        read_a(a, own, down, threadIdx.x / 32 * 16, 2 * d);
#pragma unroll
        for (int n = 0; n < STAGE_ROWS / 16; n++) {
            u32 b[4];
            read_b(b, stage, across, 16 * n, 2 * d);
            mma<T>(s[2 * n], a, b[0], b[1]);
            mma<T>(s[2 * n + 1], a, b[2], b[3]);
        }
    }
}

/// sum += weights · rows of a stage. Each weight is two values of T, what the first one rounds off and itself: alone, its rounding
/// would be as large as that of the result.
__forceinline__ void weigh(Gradient &sum, const Scores &weights, u32 stage) {
    const Lane<TileStep> down = Lane<TileStep>::down();
#pragma unroll
    for (int k = 0; k < STAGE_ROWS / 16; k++) {
        u32 high[4], low[4];
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const float *pair = &weights[2 * k + e / 2][e % 2 * 2];
            high[e] = Storage<T>::pair(pair[0], pair[1]);
            low[e] = Storage<T>::pair(pair[0] - Storage<T>::first(high[e]), pair[1] - Storage<T>::second(high[e]));
        }
#pragma unroll
        for (int n = 0; n < HEAD / 16; n++) {
            u32 b[4];
            read_b_transposed(b, stage, down, 16 * k, 2 * n);
            mma<T>(sum[2 * n], low, b[0], b[1]);
            mma<T>(sum[2 * n], high, b[0], b[1]);
            mma<T>(sum[2 * n + 1], low, b[2], b[3]);
            mma<T>(sum[2 * n + 1], high, b[2], b[3]);
        }
    }
}

/// Rounds this warp's rows, times a factor of each, and stores them through the part of an own tile that only this warp reads.
__forceinline__ void finish(const HeadRows<T> &to, const Gradient &sum, const float (&factor)[2], u8 *tile, u32 first) {
    const u32 lane = threadIdx.x % 32, row0 = threadIdx.x / 32 * 16;
    __syncwarp();
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
        for (int n = 0; n < HEAD / 8; n++) {
            u32 *word = reinterpret_cast<u32 *>(tile + TileOwn::at(row0 + 8 * half + lane / 4, n)) + lane % 4;
            *word = Storage<T>::pair(sum[n][2 * half] * factor[half], sum[n][2 * half + 1] * factor[half]);
        }
    __syncwarp();
    store_rows<TileOwn, ALIGNED>(to, first + row0, tile, row0, 16, lane, 32);
}

/// rowsum(y · dy) of one query, in all four lanes that have its row.
__forceinline__ float delta_of(const AttentionGradParams &p, u32 query) {
    float sum = 0.0f;
    if (query < p.queries) {
        const T *y = outputs_of(p, p.y).row(query), *dy = outputs_of(p, p.dy).row(query);
        for (u32 column = threadIdx.x % 4 * 8; column < p.head_dim; column += 32) {
            float a[8] = {}, b[8] = {};
            add8<ALIGNED>(a, y + column, p.head_dim - column);
            add8<ALIGNED>(b, dy + column, p.head_dim - column);
#pragma unroll
            for (int e = 0; e < 8; e++) sum = fmaf(a[e], b[e], sum);
        }
    }
    return quad_sum(sum);
}

/// Turns the gradients of one row's probabilities into those of its scores, as 2^(score - top) · (dp - delta): the row's sum is not known
/// before its last key. What was summed before is brought to the new top.
__forceinline__ void soften(Gradient &dq, Scores &s, Scores &ds, RowState &row, const AttentionGradParams &p, u32 query, u32 first_key, int half, float delta) {
    // rows beyond the end see the first key, so that their numbers stay finite
    const u32 seeing = min(query + 8 * half, p.queries - 1);
    float top = -__uint_as_float(0x7f800000u);
#pragma unroll
    for (int n = 0; n < STAGE_ROWS / 8; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            float &x = s[n][2 * half + e];
            x = sees(p, seeing, first_key + 8 * n + threadIdx.x % 4 * 2 + e) ? x * p.scale : -__uint_as_float(0x7f800000u);
            top = fmaxf(top, x);
        }
    const float factor = row.raise(quad_max(top));
#pragma unroll
    for (int n = 0; n < STAGE_ROWS / 8; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            const float share = ptx::ex2(s[n][2 * half + e] - row.top);
            row.total += share;
            ds[n][2 * half + e] = share * (ds[n][2 * half + e] - delta);
        }
#pragma unroll
    for (int n = 0; n < HEAD / 8; n++) dq[n][2 * half] *= factor, dq[n][2 * half + 1] *= factor;
}

extern "C" __global__ void __launch_bounds__(THREADS) attention_grad_queries(const __grid_constant__ AttentionGradParams p) {
    extern __shared__ __align__(128) u8 shared[];
    const u32 first = blockIdx.x * OWN, lane = threadIdx.x % 32, query = first + threadIdx.x / 32 * 16 + lane / 4;
    const u32 q = ptx::shared_address(shared), dy = q + TileOwn::BYTES;
    const Stages stages{shared, keys_of(p, p.k), keys_of(p, p.v), 0, CAUSAL ? min(p.keys, first + OWN) : p.keys};
    fill_rows<TileOwn, THREADS, ALIGNED>(shared, 0, queries_of(p, p.q), first);
    fill_rows<TileOwn, THREADS, ALIGNED>(shared, TileOwn::BYTES, outputs_of(p, p.dy), first);

    stages.bring(0);
    RowState rows[2];
    const float delta[2] = {delta_of(p, query), delta_of(p, query + 8)};
    Gradient dq = {};
    stages.each([&](u32 k, u32 v, u32 first_key) {
        Scores s, ds;
        score(s, q, k);
        score(ds, dy, v);
#pragma unroll
        for (int half = 0; half < 2; half++) soften(dq, s, ds, rows[half], p, query, first_key, half, delta[half]);
        weigh(dq, ds, k);
    });
    float factor[2], *log_sums = p.log_sum, *deltas = p.delta;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float total = quad_sum(rows[half].total);
        factor[half] = p.factor / total;
        if (lane % 4 == 0 && query + 8 * half < p.queries) {
            log_sums[first_row(p) + query + 8 * half] = rows[half].top + log2f(total);
            deltas[first_row(p) + query + 8 * half] = delta[half];
        }
    }
    finish(head_rows<T>(p.dq, p.q_pitch, p.queries, p.head_dim), dq, factor, shared, first);
}

extern "C" __global__ void __launch_bounds__(THREADS) attention_grad_keys(const __grid_constant__ AttentionGradParams p) {
    extern __shared__ __align__(128) u8 shared[];
    const u32 first = blockIdx.x * OWN, lane = threadIdx.x % 32, key = first + threadIdx.x / 32 * 16 + lane / 4;
    const u32 k = ptx::shared_address(shared), v = k + TileOwn::BYTES;
    const Stages stages{shared, queries_of(p, p.q), outputs_of(p, p.dy), CAUSAL ? first / STAGE_ROWS * STAGE_ROWS : 0, p.queries};
    const float *log_sums = p.log_sum, *deltas = p.delta;
    fill_rows<TileOwn, THREADS, ALIGNED>(shared, 0, keys_of(p, p.k), first);
    fill_rows<TileOwn, THREADS, ALIGNED>(shared, TileOwn::BYTES, keys_of(p, p.v), first);

    Gradient dk = {}, dv = {};
    stages.bring(0);
    stages.each([&](u32 q, u32 dy, u32 first_query) {
        // keys run down, queries across: both products below then have these weights as their left operand
        Scores probabilities, ds;
        score(probabilities, k, q);
        score(ds, v, dy);
#pragma unroll
        for (int n = 0; n < STAGE_ROWS / 8; n++)
#pragma unroll
            for (int column = 0; column < 2; column++) {
                u32 query = first_query + 8 * n + lane % 4 * 2 + column;
                u64 at = first_row(p) + min(query, p.queries - 1);
                float log_sum = log_sums[at], delta = deltas[at];
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    float &x = probabilities[n][2 * half + column], &y = ds[n][2 * half + column];
                    x = sees(p, query, key + 8 * half) ? ptx::ex2(fmaf(x, p.scale, -log_sum)) : 0.0f;
                    y = x * (y - delta);
                }
            }
        weigh(dv, probabilities, dy);
        weigh(dk, ds, q);
    });
    finish(head_rows<T>(p.dk, p.kv_pitch, p.keys, p.head_dim), dk, {p.factor, p.factor}, shared, first);
    finish(head_rows<T>(p.dv, p.kv_pitch, p.keys, p.head_dim), dv, {1.0f, 1.0f}, shared + TileOwn::BYTES, first);
}
