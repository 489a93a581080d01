// The tensor-core product that linear layers, convolutions and their gradients share: c[m][n] = sum over k of a[m][k] b[n][k].
// A block makes BLOCK_M x BLOCK_N of c. Operands pass through RING stages of shared memory that cp.async fills while the tensor cores
// work on earlier ones; sums stay in registers as f32, in the order of k whatever the tile, so tiles do not change results.
#pragma once
#include "source.cuh"

/// Sizes of one product. A_ACROSS, B_ACROSS: that operand's tiles are [k][m], [k][n], because memory is contiguous along m, n.
template <int BLOCK_M_, int BLOCK_N_, int DOWN_M_, int GRID_N_, int RING_, bool A_ACROSS_ = false, bool B_ACROSS_ = false> struct Product {
    /// RESIDENT: for the launch bounds. Left to itself, ptxas holds small tiles to 56 or 80 registers, spills a few on some devices, and
    /// gains nothing: four blocks fit with 128.
    enum {
        A_ACROSS = A_ACROSS_,
        B_ACROSS = B_ACROSS_,
        BLOCK_M = BLOCK_M_,
        BLOCK_N = BLOCK_N_,
        DEPTH = 32,
        RING = RING_,
        GRID_N = GRID_N_,
        THREADS = 32 * DOWN_M_ * GRID_N,
        RESIDENT = BLOCK_M * BLOCK_N <= 64 * 64 ? 4 : 0,
        WARP_M = BLOCK_M / DOWN_M_,
        WARP_N = BLOCK_N / GRID_N,
        PIECES_M = WARP_M / 16,
        PIECES_N = WARP_N / 8
    };
    typedef Tile<A_ACROSS ? DEPTH : BLOCK_M, A_ACROSS ? BLOCK_M : DEPTH> TileA;
    typedef Tile<B_ACROSS ? DEPTH : BLOCK_N, B_ACROSS ? BLOCK_N : DEPTH> TileB;
    enum { STAGE_BYTES = int(TileA::BYTES) + int(TileB::BYTES) };
    static_assert(WARP_M % 16 == 0 && WARP_N % 16 == 0, "a warp has whole pieces");

    /// Chunks of each operand that one thread brings into each stage.
    enum { CHUNKS_A = BLOCK_M * DEPTH / 8 / THREADS, CHUNKS_B = BLOCK_N * DEPTH / 8 / THREADS };

    static __forceinline__ u32 warp_m() { return threadIdx.x / 32 / GRID_N * WARP_M; }
    static __forceinline__ u32 warp_n() { return threadIdx.x / 32 % GRID_N * WARP_N; }
};

/// Sums of one lane: piece (i, j) is rows 16 i, columns 8 j of its warp's part, as mma lays it out.
template <class P> struct Sums {
    enum { PIECES = P::PIECES_M * P::PIECES_N };
    float at[PIECES][4];

    __forceinline__ Sums() {
#pragma unroll
        for (int i = 0; i < PIECES; i++)
#pragma unroll
            for (int e = 0; e < 4; e++) at[i][e] = 0.0f;
    }

    __forceinline__ float (&piece(int i, int j))[4] { return at[i * P::PIECES_N + j]; }
    __forceinline__ const float (&piece(int i, int j) const)[4] { return at[i * P::PIECES_N + j]; }
};

/// Multiplies what is in one stage.
template <class P, typename V> __forceinline__ void multiply_stage(Sums<P> &sums, u32 stage) {
    typedef typename P::TileA TA;
    typedef typename P::TileB TB;
    const Lane<TA> lane_a = P::A_ACROSS ? Lane<TA>::across() : Lane<TA>::down();
    const Lane<TB> lane_b = P::B_ACROSS ? Lane<TB>::down() : Lane<TB>::across();
    const u32 tile_b = stage + TA::BYTES, m0 = P::warp_m(), n0 = P::warp_n();
#pragma unroll
    for (int k = 0; k < P::DEPTH; k += 16) {
        u32 a[P::PIECES_M][4], b[P::PIECES_N / 2][4];
#pragma unroll
        for (int i = 0; i < P::PIECES_M; i++) {
            if constexpr (P::A_ACROSS) read_a_transposed(a[i], stage, lane_a, k, m0 / 8 + 2 * i);
            else read_a(a[i], stage, lane_a, m0 + 16 * i, k / 8);
        }
#pragma unroll
        for (int j = 0; j < P::PIECES_N / 2; j++) {
            if constexpr (P::B_ACROSS) read_b_transposed(b[j], tile_b, lane_b, k, n0 / 8 + 2 * j);
            else read_b(b[j], tile_b, lane_b, n0 + 16 * j, k / 8);
        }
#pragma unroll
        for (int i = 0; i < P::PIECES_M; i++)
#pragma unroll
            for (int j = 0; j < P::PIECES_N; j++) mma<V>(sums.piece(i, j), a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
    }
}

/// The whole loop over `steps` stages of DEPTH. Ends with all threads past their last read of shared memory.
template <class P, typename V, class FillA, class FillB> __forceinline__ void multiply(Sums<P> &sums, u8 *shared, FillA &a, FillB &b, u32 steps) {
    auto bring = [&](u32 step) {
        if (step < steps) {
            u32 offset = step % P::RING * P::STAGE_BYTES;
            a.fill(shared, offset, P::DEPTH);
            b.fill(shared, offset + P::TileA::BYTES, P::DEPTH);
        }
        // an empty group too, so that the number of groups under way stays the same
        ptx::cp_async_commit();
    };
    for (u32 step = 0; step < P::RING - 1; step++) bring(step);
    for (u32 step = 0; step < steps; step++) {
        ptx::cp_async_wait<P::RING - 2>();
        __syncthreads();
        // into the stage that everyone has left behind at this barrier
        bring(step + P::RING - 1);
        multiply_stage<P, V>(sums, ptx::shared_address(shared) + step % P::RING * P::STAGE_BYTES);
    }
    ptx::cp_async_wait<0>();
    __syncthreads();
}

/// Gives the sums to `put(row, chunk, values)`, row and chunk of 8 columns within the block's tile, through shared memory, so that
/// neighbouring lanes have neighbouring chunks and memory is touched 16 bytes at a time.
/// Gated: the second half of each warp's columns are gates; `put(row, chunk, values, gates)` with chunks of the block's BLOCK_N / 2 columns.
template <class P, bool Gated, class PUT> __forceinline__ void each_chunk(const Sums<P> &sums, u8 *shared, PUT put) {
    enum { PASS = P::PIECES_M > 1 ? 2 : 1, ROWS = 16 * PASS, CHUNKS = P::WARP_N / (Gated ? 16 : 8), QUADS = P::WARP_N / 4 };
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float4 *staged = reinterpret_cast<float4 *>(shared) + warp * ROWS * QUADS;
    // 4 rows of 2 quads lie in 8 different groups of banks; odd halves of 32 banks to a row bring every second row half of the way
    auto permuted = [](u32 row, u32 quad) { return row * QUADS + (quad ^ (QUADS % 8 == 0 ? row & 3 : row >> 1 & 1) << 1); };
    auto read = [&](float(&v)[8], u32 row, u32 chunk) {
        // half of the lanes read their second quad first: 8 lanes then touch 8 different groups of banks
        bool swapped = lane & (CHUNKS == 2 ? 2 : 4);
        float4 x = staged[permuted(row, 2 * chunk + swapped)], y = staged[permuted(row, 2 * chunk + !swapped)];
        // by bits, because the compiler makes a branch at which lanes part of a selection
        const u32 mask = 0u - u32(swapped);
        auto pick = [&](float one, float other) { return __uint_as_float((__float_as_uint(one) & ~mask) | (__float_as_uint(other) & mask)); };
        v[0] = pick(x.x, y.x), v[1] = pick(x.y, y.y), v[2] = pick(x.z, y.z), v[3] = pick(x.w, y.w);
        v[4] = pick(y.x, x.x), v[5] = pick(y.y, x.y), v[6] = pick(y.z, x.z), v[7] = pick(y.w, x.w);
    };
#pragma unroll
    for (int pass = 0; pass < P::PIECES_M; pass += PASS) {
        __syncwarp();
#pragma unroll
        for (int i = 0; i < PASS; i++)
#pragma unroll
            for (int j = 0; j < P::PIECES_N; j++)
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    u32 row = 16 * i + 8 * half + lane / 4;
                    float2 *at = reinterpret_cast<float2 *>(&staged[permuted(row, 2 * j + lane % 4 / 2)]) + lane % 2;
                    *at = make_float2(sums.piece(pass + i, j)[2 * half], sums.piece(pass + i, j)[2 * half + 1]);
                }
        __syncwarp();
#pragma unroll 1
        for (u32 item = lane; item < ROWS * CHUNKS; item += 32) {
            u32 row = item / CHUNKS, chunk = item % CHUNKS;
            u32 tile_row = P::warp_m() + 16 * pass + row, tile_chunk = P::warp_n() / (Gated ? 16 : 8) + chunk;
            float v[8];
            read(v, row, chunk);
            if constexpr (Gated) {
                float gates[8];
                read(gates, row, CHUNKS + chunk);
                put(tile_row, tile_chunk, v, gates);
            } else {
                put(tile_row, tile_chunk, v);
            }
        }
    }
}
