// Attention of heads of up to 256 values: each warp has whole queries, and its scores never leave its registers.
// Included by attention.cu, whose header describes it.
#pragma once

enum { WARPS = 4, THREADS = 32 * WARPS, QUERIES = WARPS * 16 * PIECES, HOLD_Q = HEAD <= 64 };
typedef Tile<QUERIES, HEAD> TileQ;
typedef Tile<KEYS, HEAD> TileK;
enum { STAGE_BYTES = 2 * int(TileK::BYTES) };
/// For the launch bounds: as many blocks as shared memory of sm_80 holds. Left to itself, ptxas holds them to 128 registers on sm_120
/// and spills two.
enum { RESIDENT = PIECES == 1 && HEAD <= 64 ? 3 : 0 };

/// What one warp knows of its queries.
struct WarpState {
    float y[PIECES][HEAD / 8][4];
    RowState rows[PIECES][2];
    u32 q[HOLD_Q ? PIECES : 1][HOLD_Q ? HEAD / 16 : 1][4];
};

typedef float Scores[PIECES][KEYS / 8][4];

__forceinline__ u32 warp_row() { return threadIdx.x / 32 * 16 * PIECES; }

/// Scores of the warp's queries with the keys of one stage.
__forceinline__ void score(Scores &s, const WarpState &w, u32 tile_q, u32 tile_k) {
    const Lane<TileQ> down = Lane<TileQ>::down();
    const Lane<TileK> across = Lane<TileK>::across();
#pragma unroll
    for (int d = 0; d < HEAD / 16; d++) {
        u32 q[PIECES][4];
#pragma unroll
        for (int i = 0; i < PIECES; i++) {
            if constexpr (HOLD_Q) {
#pragma unroll
                for (int e = 0; e < 4; e++) q[i][e] = w.q[i][d][e];
            } else {
                read_a(q[i], tile_q, down, warp_row() + 16 * i, 2 * d);
            }
        }
#pragma unroll
        for (int n = 0; n < KEYS / 16; n++) {
            u32 k[4];
            read_b(k, tile_k, across, 16 * n, 2 * d);
#pragma unroll
            for (int i = 0; i < PIECES; i++) {
                mma<T>(s[i][2 * n], q[i], k[0], k[1]);
                mma<T>(s[i][2 * n + 1], q[i], k[2], k[3]);
            }
        }
    }
}

/// Scores of keys that their query does not see become -inf.
__forceinline__ void hide(Scores &s, const AttentionParams &p, u32 first_query, u32 first_key) {
    const u32 lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < PIECES; i++)
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                u32 query = first_query + 16 * i + 8 * (e / 2) + lane / 4, key = first_key + 8 * n + lane % 4 * 2 + e % 2;
                if (!sees(p, query, key)) s[i][n][e] = -__uint_as_float(0x7f800000u);
            }
}

/// Brings each row to its largest score so far, and what was summed before with it.
__forceinline__ void raise(WarpState &w, const float (&tops)[PIECES][2]) {
#pragma unroll
    for (int i = 0; i < PIECES; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float factor = w.rows[i][half].raise(quad_max(tops[i][half]));
#pragma unroll
            for (int n = 0; n < HEAD / 8; n++) w.y[i][n][2 * half] *= factor, w.y[i][n][2 * half + 1] *= factor;
        }
}

/// Scores to 2^(score - top). The tops of a warp rise together, and only once a score is 2^HEADROOM times what its row was raised for: later
/// steps seldom bring one, and until then no lane asks another for its scores.
__forceinline__ void soften(Scores &s, WarpState &w, const AttentionParams &p) {
    const float HEADROOM = 8.0f;
    float tops[PIECES][2];
    bool above = false;
#pragma unroll
    for (int i = 0; i < PIECES; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float top = s[i][0][2 * half];
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
                for (int e = 0; e < 2; e++) top = fmaxf(top, s[i][n][2 * half + e]);
            tops[i][half] = top * p.scale;
            above |= tops[i][half] > w.rows[i][half].top + HEADROOM;
        }
    if (__any_sync(0xffffffffu, above)) raise(w, tops);
#pragma unroll
    for (int i = 0; i < PIECES; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            RowState &row = w.rows[i][half];
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    float &x = s[i][n][2 * half + e];
                    x = ptx::ex2(fmaf(x, p.scale, -row.top));
                    row.total += x;
                }
        }
}

/// y += probabilities · v. The sums of the first product lie as the operand of the second one does.
__forceinline__ void weigh(WarpState &w, const Scores &s, u32 tile_v) {
    const Lane<TileK> down = Lane<TileK>::down();
#pragma unroll
    for (int k = 0; k < KEYS / 16; k++) {
        u32 probabilities[PIECES][4];
#pragma unroll
        for (int i = 0; i < PIECES; i++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const float *pair = &s[i][2 * k + e / 2][e % 2 * 2];
                probabilities[i][e] = Storage<T>::pair(pair[0], pair[1]);
            }
#pragma unroll
        for (int n = 0; n < HEAD / 16; n++) {
            u32 v[4];
            read_b_transposed(v, tile_v, down, 16 * k, 2 * n);
#pragma unroll
            for (int i = 0; i < PIECES; i++) {
                mma<T>(w.y[i][2 * n], probabilities[i], v[0], v[1]);
                mma<T>(w.y[i][2 * n + 1], probabilities[i], v[2], v[3]);
            }
        }
    }
}

/// Divides by the sums, rounds, and stores through the part of q's tile that only this warp reads.
__forceinline__ void finish(const WarpState &w, const AttentionParams &p, u8 *tile_q, u32 first_query) {
    const u32 lane = threadIdx.x % 32;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < PIECES; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            u32 row = warp_row() + 16 * i + 8 * half + lane / 4;
            RowState state = w.rows[i][half];
            state.total = quad_sum(state.total);
            float share = 1.0f / state.total;
            if (lane % 4 == 0) store_log_sum(p, first_query + row, state);
#pragma unroll
            for (int n = 0; n < HEAD / 8; n++) {
                u32 *to = reinterpret_cast<u32 *>(tile_q + TileQ::at(row, n)) + lane % 4;
                *to = Storage<T>::pair(w.y[i][n][2 * half] * share, w.y[i][n][2 * half + 1] * share);
            }
        }
    __syncwarp();
    store_rows<TileQ, ALIGNED>(outputs_of(p), first_query + warp_row(), tile_q, warp_row(), 16 * PIECES, lane, 32);
}

extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT) attention_tensor(const __grid_constant__ AttentionParams p) {
    extern __shared__ __align__(128) u8 shared[];
    const u32 first_query = blockIdx.x * QUERIES, end = keys_before(p, first_query + QUERIES);
    const HeadRows<const T> q = queries_of(p), k = keys_of(p), v = values_of(p);
    auto bring = [&](u32 step) {
        if (step * KEYS < end) {
            u32 offset = TileQ::BYTES + step % STAGES * STAGE_BYTES;
            fill_rows<TileK, THREADS, ALIGNED>(shared, offset, k, step * KEYS);
            fill_rows<TileK, THREADS, ALIGNED>(shared, offset + TileK::BYTES, v, step * KEYS);
        }
        ptx::cp_async_commit();
    };
    fill_rows<TileQ, THREADS, ALIGNED>(shared, 0, q, first_query);
    bring(0);
    WarpState w = {};
    const u32 tiles = ptx::shared_address(shared);
    for (u32 step = 0; step * KEYS < end; step++) {
        ptx::cp_async_wait<0>();
        __syncthreads();
        if (STAGES > 1) bring(step + 1);
        if (HOLD_Q && step == 0) {
#pragma unroll
            for (int i = 0; i < PIECES; i++)
#pragma unroll
                for (int d = 0; d < HEAD / 16; d++) read_a(w.q[HOLD_Q ? i : 0][HOLD_Q ? d : 0], tiles, Lane<TileQ>::down(), warp_row() + 16 * i, 2 * d);
        }
        const u32 tile_k = tiles + TileQ::BYTES + step % STAGES * STAGE_BYTES, first_key = step * KEYS;
        Scores s = {};
        score(s, w, tiles, tile_k);
        // only tiles at an edge have scores that must not count
        if (first_key + KEYS > (CAUSAL ? min(p.keys, first_query + warp_row() + 1) : p.keys)) hide(s, p, first_query + warp_row(), first_key);
        soften(s, w, p);
        weigh(w, s, tile_k + TileK::BYTES);
        if (STAGES == 1) {
            __syncthreads();
            bring(step + 1);
        }
    }
    ptx::cp_async_wait<0>();
    finish(w, p, shared, first_query);
}
