// Attention in f32 throughout: plain multiply-adds, 16 queries of a head per block, 4 per warp.
// Included by attention.cu, whose header describes it.
#pragma once

enum { WARPS = 4, THREADS = 32 * WARPS, QUERIES = 16, ROWS = QUERIES / WARPS, PITCH = HEAD + 4, COLUMNS = (HEAD + 31) / 32, PER_LANE = KEYS / 8 };

/// Rows of a head to shared memory; zero beyond the end and the width.
__forceinline__ void fill_plain(float *to, u32 rows, const HeadRows<const T> &from, u32 first) {
    for (u32 item = threadIdx.x; item < rows * (HEAD / 4); item += THREADS) {
        u32 row = item / (HEAD / 4), column = item % (HEAD / 4) * 4;
        float v[4] = {};
        if (first + row < from.count) {
            const T *at = from.row(first + row) + column;
            if constexpr (ALIGNED) {
                if (column < from.width) load<4>(v, at);
            } else {
#pragma unroll
                for (int e = 0; e < 4; e++)
                    if (column + e < from.width) v[e] = at[e];
            }
        }
        store<4>(to + row * PITCH + column, v);
    }
}

/// Scores of one query with the keys lane % 8, lane % 8 + 8, ...
__forceinline__ void score(float (&s)[PER_LANE], const float *q, const float *k) {
    for (u32 d = 0; d < HEAD; d += 4) {
        float x[4];
        load<4>(x, q + d);
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) {
            float z[4];
            load<4>(z, k + 8 * i * PITCH + d);
#pragma unroll
            for (int e = 0; e < 4; e++) s[i] = fmaf(x[e], z[e], s[i]);
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) attention_plain(const __grid_constant__ AttentionParams p) {
    extern __shared__ __align__(128) u8 shared[];
    float *tile_q = reinterpret_cast<float *>(shared), *tile_k = tile_q + QUERIES * PITCH, *probabilities = tile_k + KEYS * PITCH;
    const u32 first_query = blockIdx.x * QUERIES, end = keys_before(p, first_query + QUERIES);
    const HeadRows<const T> q = queries_of(p), k = keys_of(p), v = values_of(p);
    // eight lanes soften one query; all lanes then have columns lane, lane + 32, ... of the warp's four
    const u32 lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * ROWS, row = warp_row + lane / 8, query = first_query + row;
    fill_plain(tile_q, QUERIES, q, first_query);
    float y[ROWS][COLUMNS] = {};
    RowState state;
    for (u32 first_key = 0; first_key < end; first_key += KEYS) {
        __syncthreads();
        fill_plain(tile_k, KEYS, k, first_key);
        __syncthreads();
        float s[PER_LANE] = {}, top = -__uint_as_float(0x7f800000u);
        score(s, tile_q + row * PITCH, tile_k + lane % 8 * PITCH);
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) {
            s[i] = sees(p, query, first_key + 8 * i + lane % 8) ? s[i] * p.scale : top;
        }
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) top = fmaxf(top, s[i]);
        top = quad_max(top);
        float factor = state.raise(fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 4)));
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) {
            float x = ptx::ex2(s[i] - state.top);
            state.total += x;
            probabilities[row * KEYS + 8 * i + lane % 8] = x;
        }
        __syncthreads();
        fill_plain(tile_k, KEYS, v, first_key);
        __syncthreads();
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            float rescale = __shfl_sync(0xffffffffu, factor, 8 * r);
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) y[r][c] *= rescale;
        }
        for (u32 key = 0; key < KEYS; key++) {
#pragma unroll
            for (int c = 0; c < COLUMNS; c++) {
                u32 column = lane + 32 * c;
                float x = column < HEAD ? tile_k[key * PITCH + column] : 0.0f;
#pragma unroll
                for (int r = 0; r < ROWS; r++) y[r][c] = fmaf(probabilities[(warp_row + r) * KEYS + key], x, y[r][c]);
            }
        }
    }
    state.total = quad_sum(state.total);
    state.total += __shfl_xor_sync(0xffffffffu, state.total, 4);
    if (lane % 8 == 0) store_log_sum(p, query, state);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        float share = 1.0f / __shfl_sync(0xffffffffu, state.total, 8 * r);
        if (first_query + warp_row + r >= p.queries) continue;
        T *to = outputs_of(p).row(first_query + warp_row + r);
#pragma unroll
        for (int c = 0; c < COLUMNS; c++)
            if (lane + 32 * c < p.head_dim) to[lane + 32 * c] = y[r][c] * share;
    }
}
