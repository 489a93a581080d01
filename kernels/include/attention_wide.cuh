// Attention of heads too wide for one warp's registers: the warps of a block share its scores, then each has a slice of head_dim.
// Included by attention.cu, whose header describes it.
#pragma once

/// Rows and columns of warps for the scores, and sizes of the block.
enum { SCORE_COLUMNS = 2, SCORE_ROWS = WARPS / SCORE_COLUMNS, QUERIES = 16 * SCORE_ROWS, THREADS = 32 * WARPS, SLICE = HEAD / WARPS };
static_assert(KEYS == 32 && QUERIES * 4 == THREADS && SLICE % 16 == 0, "16x16 scores and whole pieces of head_dim for each warp");
typedef Tile<QUERIES, HEAD> TileQ;
typedef Tile<KEYS, HEAD> TileK;
typedef Tile<QUERIES, KEYS> TileP;

/// The block's shared memory, in bytes from its start.
enum { AT_K = TileQ::BYTES, AT_P = AT_K + TileK::BYTES, AT_SCORES = AT_P + TileP::BYTES, SCORE_PITCH = KEYS + 8, AT_FACTORS = AT_SCORES + QUERIES * SCORE_PITCH * 4 };

/// Where a score lies, in floats. Quads of odd rows are swapped, so that neither pairs of eight rows nor quads of two fall on one bank.
__forceinline__ u32 score_place(u32 row, u32 column) { return row * SCORE_PITCH + ((column / 4) ^ (row & 1)) * 4 + column % 4; }

/// This warp's 16x16 scores, to shared memory as f32.
__forceinline__ void score(u8 *shared, const AttentionParams &p, u32 first_query, u32 first_key) {
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32, tiles = ptx::shared_address(shared);
    const u32 row0 = warp / SCORE_COLUMNS * 16, column0 = warp % SCORE_COLUMNS * 16;
    const Lane<TileQ> down = Lane<TileQ>::down();
    const Lane<TileK> across = Lane<TileK>::across();
    float s[2][4] = {};
#pragma unroll 8
    for (int d = 0; d < HEAD / 16; d++) {
        u32 q[4], k[4];
        read_a(q, tiles, down, row0, 2 * d);
        read_b(k, tiles + AT_K, across, column0, 2 * d);
        mma<T>(s[0], q, k[0], k[1]);
        mma<T>(s[1], q, k[2], k[3]);
    }
    float *scores = reinterpret_cast<float *>(shared + AT_SCORES);
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            u32 row = row0 + lane / 4 + half * 8, column = column0 + 8 * n + lane % 4 * 2;
            auto seen = [&](u32 e) { return sees(p, first_query + row, first_key + column + e) ? s[n][2 * half + e] * p.scale : -__uint_as_float(0x7f800000u); };
            *reinterpret_cast<float2 *>(&scores[score_place(row, column)]) = make_float2(seen(0), seen(1));
        }
}

/// Four neighbouring lanes soften one row, 8 keys each.
__forceinline__ void soften(u8 *shared, RowState &state) {
    const u32 row = threadIdx.x / 4, part = threadIdx.x % 4;
    float x[8], top = -__uint_as_float(0x7f800000u);
    const float *scores = reinterpret_cast<const float *>(shared + AT_SCORES);
#pragma unroll
    for (int quad = 0; quad < 2; quad++) {
        float4 four = *reinterpret_cast<const float4 *>(&scores[score_place(row, part * 8 + quad * 4)]);
        x[4 * quad] = four.x, x[4 * quad + 1] = four.y, x[4 * quad + 2] = four.z, x[4 * quad + 3] = four.w;
    }
#pragma unroll
    for (int e = 0; e < 8; e++) top = fmaxf(top, x[e]);
    float factor = state.raise(quad_max(top));
#pragma unroll
    for (int e = 0; e < 8; e++) {
        x[e] = ptx::ex2(x[e] - state.top);
        state.total += x[e];
    }
    store<8>(reinterpret_cast<T *>(shared + AT_P + TileP::at(row, part)), x);
    if (part == 0) reinterpret_cast<float *>(shared + AT_FACTORS)[row] = factor;
}

/// y of this warp's slice: brought to the new top, plus probabilities · v.
__forceinline__ void weigh(float (&y)[SCORE_ROWS][SLICE / 8][4], u8 *shared) {
    const u32 lane = threadIdx.x % 32, slice = threadIdx.x / 32 * SLICE / 8, tiles = ptx::shared_address(shared);
    const Lane<TileP> down_p = Lane<TileP>::down();
    const Lane<TileK> down_v = Lane<TileK>::down();
    const float *factors = reinterpret_cast<const float *>(shared + AT_FACTORS);
#pragma unroll
    for (int i = 0; i < SCORE_ROWS; i++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            float factor = factors[16 * i + e / 2 * 8 + lane / 4];
#pragma unroll
            for (int n = 0; n < SLICE / 8; n++) y[i][n][e] *= factor;
        }
#pragma unroll
    for (int k = 0; k < KEYS; k += 16) {
        u32 a[SCORE_ROWS][4];
#pragma unroll
        for (int i = 0; i < SCORE_ROWS; i++) read_a(a[i], tiles + AT_P, down_p, 16 * i, k / 8);
#pragma unroll
        for (int n = 0; n < SLICE / 16; n++) {
            u32 v[4];
            read_b_transposed(v, tiles + AT_K, down_v, k, slice + 2 * n);
#pragma unroll
            for (int i = 0; i < SCORE_ROWS; i++) {
                mma<T>(y[i][2 * n], a[i], v[0], v[1]);
                mma<T>(y[i][2 * n + 1], a[i], v[2], v[3]);
            }
        }
    }
}

/// Divides by the sums, rounds, and stores through q's tile.
__forceinline__ void finish(float (&y)[SCORE_ROWS][SLICE / 8][4], RowState state, const AttentionParams &p, u8 *shared, u32 first_query) {
    const u32 lane = threadIdx.x % 32, slice = threadIdx.x / 32 * SLICE / 8;
    float *shares = reinterpret_cast<float *>(shared + AT_FACTORS);
    state.total = quad_sum(state.total);
    if (threadIdx.x % 4 == 0) {
        shares[threadIdx.x / 4] = 1.0f / state.total;
        store_log_sum(p, first_query + threadIdx.x / 4, state);
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < SCORE_ROWS; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            u32 row = 16 * i + 8 * half + lane / 4;
#pragma unroll
            for (int n = 0; n < SLICE / 8; n++) {
                u32 *to = reinterpret_cast<u32 *>(shared + TileQ::at(row, slice + n)) + lane % 4;
                *to = Storage<T>::pair(y[i][n][2 * half] * shares[row], y[i][n][2 * half + 1] * shares[row]);
            }
        }
    __syncthreads();
    store_rows<TileQ, ALIGNED>(outputs_of(p), first_query, shared, 0, QUERIES, threadIdx.x, THREADS);
}

extern "C" __global__ void __launch_bounds__(THREADS) attention_wide(const __grid_constant__ AttentionParams p) {
    extern __shared__ __align__(128) u8 shared[];
    const u32 first_query = blockIdx.x * QUERIES, end = keys_before(p, first_query + QUERIES);
    const HeadRows<const T> q = queries_of(p), k = keys_of(p), v = values_of(p);
    auto bring = [&](const HeadRows<const T> &rows, u32 first) {
        if (first < end) fill_rows<TileK, THREADS, ALIGNED>(shared, AT_K, rows, first);
        ptx::cp_async_commit();
    };
    auto arrive = [] {
        ptx::cp_async_wait<0>();
        __syncthreads();
    };
    fill_rows<TileQ, THREADS, ALIGNED>(shared, 0, q, first_query);
    bring(k, 0);
    float y[SCORE_ROWS][SLICE / 8][4] = {};
    RowState state;
    for (u32 first_key = 0; first_key < end; first_key += KEYS) {
        arrive();
        score(shared, p, first_query, first_key);
        __syncthreads();
        // v takes the place of k while the scores are softened, and the next k that of v
        bring(v, first_key);
        soften(shared, state);
        arrive();
        weigh(y, shared);
        __syncthreads();
        bring(k, first_key + KEYS);
    }
    ptx::cp_async_wait<0>();
    finish(y, state, p, shared, first_query);
}
