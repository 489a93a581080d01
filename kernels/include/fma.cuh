// The same product as gemm.cuh for operands that are f32 or of two different types: plain fused multiply-adds in f32.
// A block of 128 threads makes 64x64 of c, each thread 8x4; the next 16 of k are fetched into registers beside the arithmetic.
#pragma once
#include "source.cuh"

struct Plain {
    enum { TILE = 64, DEPTH = 16, THREADS = 128, PITCH = TILE + 4, PART_M = 8, PART_N = 4, STEP = 0 };

    /// The one row of both operands that this thread fetches, and its chunk of 8 along DEPTH.
    static __forceinline__ u32 row() { return threadIdx.x % TILE; }
    static __forceinline__ u32 chunk() { return threadIdx.x / TILE; }

    /// Where this thread's part of the tile starts.
    static __forceinline__ u32 part_m() { return threadIdx.x / 16 * PART_M; }
    static __forceinline__ u32 part_n() { return threadIdx.x % 16 * PART_N; }
};

/// Two stages of both operands, [k][row], then the finished tile, [row][column].
union PlainShared {
    float operand[2][2][Plain::DEPTH][Plain::PITCH];
    float tile[Plain::TILE][Plain::PITCH];
};

/// 8 values along k; zero beyond the end.
template <bool Aligned, class SOURCE> __forceinline__ void fetch(float (&v)[8], const SOURCE &source) {
    if constexpr (SOURCE::ACROSS) {
#pragma unroll
        for (int e = 0; e < 8; e++) {
            auto c = source.along(e);
            v[e] = c.valid ? to_f32(*c.at) : 0.0f;
        }
    } else if constexpr (Aligned) {
        auto c = source.chunk(0);
#pragma unroll
        for (int e = 0; e < 8; e++) v[e] = 0.0f;
        if (c.valid) load<8>(v, c.at);
    } else {
#pragma unroll
        for (int e = 0; e < 8; e++) {
            auto c = source.value(0, e);
            v[e] = c.valid ? to_f32(*c.at) : 0.0f;
        }
    }
}

/// The whole loop over `steps` times DEPTH. Aligned: every chunk starts at a multiple of 16 bytes.
template <bool Aligned, class A, class B>
__forceinline__ void multiply_plain(float (&sums)[Plain::PART_M][Plain::PART_N], PlainShared &shared, A &a, B &b, u32 steps) {
    float next_a[8], next_b[8];
    auto bring = [&] {
        fetch<Aligned>(next_a, a);
        fetch<Aligned>(next_b, b);
        a.advance(Plain::DEPTH);
        b.advance(Plain::DEPTH);
    };
    auto put_down = [&](u32 stage) {
#pragma unroll
        for (int e = 0; e < 8; e++) {
            shared.operand[stage][0][8 * Plain::chunk() + e][Plain::row()] = next_a[e];
            shared.operand[stage][1][8 * Plain::chunk() + e][Plain::row()] = next_b[e];
        }
    };
    bring();
    put_down(0);
    for (u32 step = 0; step < steps; step++) {
        __syncthreads();
        bool more = step + 1 < steps;
        if (more) bring();
#pragma unroll
        for (int k = 0; k < Plain::DEPTH; k++) {
            float x[Plain::PART_M], y[Plain::PART_N];
            load<8>(x, &shared.operand[step % 2][0][k][Plain::part_m()]);
            load<4>(y, &shared.operand[step % 2][1][k][Plain::part_n()]);
#pragma unroll
            for (int i = 0; i < Plain::PART_M; i++)
#pragma unroll
                for (int j = 0; j < Plain::PART_N; j++) sums[i][j] = fmaf(x[i], y[j], sums[i][j]);
        }
        if (more) put_down((step + 1) % 2);
    }
    __syncthreads();
}

/// As each_chunk of gemm.cuh, of the whole tile.
template <bool Gated, class PUT> __forceinline__ void each_plain_chunk(const float (&sums)[Plain::PART_M][Plain::PART_N], PlainShared &shared, PUT put) {
#pragma unroll
    for (int i = 0; i < Plain::PART_M; i++) store<4>(&shared.tile[Plain::part_m() + i][Plain::part_n()], sums[i]);
    __syncthreads();
    enum { CHUNKS = Plain::TILE / (Gated ? 16 : 8) };
#pragma unroll 1
    for (u32 item = threadIdx.x; item < Plain::TILE * CHUNKS; item += Plain::THREADS) {
        u32 row = item / CHUNKS, chunk = item % CHUNKS;
        float v[8];
        load<8>(v, &shared.tile[row][8 * chunk]);
        if constexpr (Gated) {
            float gates[8];
            load<8>(gates, &shared.tile[row][Plain::TILE / 2 + 8 * chunk]);
            put(row, chunk, v, gates);
        } else {
            put(row, chunk, v);
        }
    }
}
