// Gradients of attention with plain multiply-adds: a warp has one query or key, its lanes columns lane, lane + 32, ...
// Included by attention_grad.cu, whose header describes it.
#pragma once

enum { COLUMNS = HEAD / 32, WARPS = 4 };

/// One row of a head, spread over a warp.
struct WarpRow {
    float at[COLUMNS];

    static __forceinline__ WarpRow zero() {
        WarpRow row = {};
        return row;
    }

    static __forceinline__ WarpRow of(const HeadRows<const T> &rows, u32 index) {
        WarpRow row = {};
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            u32 column = threadIdx.x % 32 + 32 * c;
            if (column < rows.width) row.at[c] = to_f32(rows.row(index)[column]);
        }
        return row;
    }

    /// The same in every lane: halves are added in one order, whatever the lane.
    __forceinline__ float dot(const WarpRow &other) const {
        float sum = 0.0f;
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) sum = fmaf(at[c], other.at[c], sum);
#pragma unroll
        for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
        return sum;
    }

    __forceinline__ void add(float factor, const WarpRow &other) {
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) at[c] = fmaf(factor, other.at[c], at[c]);
    }

    __forceinline__ void scale(float factor) {
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) at[c] *= factor;
    }

    __forceinline__ void store(const HeadRows<T> &rows, u32 index, float factor) const {
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            u32 column = threadIdx.x % 32 + 32 * c;
            if (column < rows.width) rows.row(index)[column] = from_f32<T>(at[c] * factor);
        }
    }
};

extern "C" __global__ void __launch_bounds__(32 * WARPS) attention_grad_queries_plain(const __grid_constant__ AttentionGradParams p) {
    const u32 query = blockIdx.x * WARPS + threadIdx.x / 32;
    if (query >= p.queries) return;
    const HeadRows<const T> k = keys_of(p, p.k), v = keys_of(p, p.v);
    const WarpRow q = WarpRow::of(queries_of(p, p.q), query), dy = WarpRow::of(outputs_of(p, p.dy), query);
    const float delta = dy.dot(WarpRow::of(outputs_of(p, p.y), query));
    const u32 end = CAUSAL ? min(p.keys, query + 1) : p.keys;
    RowState state;
    WarpRow dq = WarpRow::zero();
    for (u32 key = 0; key < end; key++) {
        const WarpRow k_row = WarpRow::of(k, key);
        float score = q.dot(k_row) * p.scale;
        // what was summed before is brought to the new top
        dq.scale(state.raise(score));
        float share = ptx::ex2(score - state.top);
        state.total += share;
        dq.add(share * (dy.dot(WarpRow::of(v, key)) - delta), k_row);
    }
    dq.store(head_rows<T>(p.dq, p.q_pitch, p.queries, p.head_dim), query, p.factor / state.total);
    if (threadIdx.x % 32 == 0) {
        float *log_sums = p.log_sum, *deltas = p.delta;
        log_sums[first_row(p) + query] = state.top + log2f(state.total);
        deltas[first_row(p) + query] = delta;
    }
}

extern "C" __global__ void __launch_bounds__(32 * WARPS) attention_grad_keys_plain(const __grid_constant__ AttentionGradParams p) {
    const u32 key = blockIdx.x * WARPS + threadIdx.x / 32;
    if (key >= p.keys) return;
    const HeadRows<const T> q = queries_of(p, p.q), dy = outputs_of(p, p.dy);
    const WarpRow k = WarpRow::of(keys_of(p, p.k), key), v = WarpRow::of(keys_of(p, p.v), key);
    const float *log_sums = p.log_sum, *deltas = p.delta;
    WarpRow dk = WarpRow::zero(), dv = WarpRow::zero();
    for (u32 query = CAUSAL ? key : 0; query < p.queries; query++) {
        const WarpRow q_row = WarpRow::of(q, query), dy_row = WarpRow::of(dy, query);
        float probability = ptx::ex2(fmaf(k.dot(q_row), p.scale, -log_sums[first_row(p) + query]));
        dv.add(probability, dy_row);
        dk.add(probability * (v.dot(dy_row) - deltas[first_row(p) + query]), q_row);
    }
    dk.store(head_rows<T>(p.dk, p.kv_pitch, p.keys, p.head_dim), key, p.factor);
    dv.store(head_rows<T>(p.dv, p.kv_pitch, p.keys, p.head_dim), key, 1.0f);
}
