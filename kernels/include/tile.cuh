// Tiles of 16-bit values in shared memory, and how a warp reads them as operands of the tensor cores.
// Chunks of 8 values (16 bytes) are permuted within a row, or rows are padded to an odd number of chunks, so that the 8 rows that
// one phase of ldmatrix reads, and the 8 chunks that one phase of a store writes, always lie in 8 different groups of 4 banks.
#pragma once
#include "types.cuh"

/// ROWS rows of COLS values; COLS is a multiple of 16.
template <int ROWS_, int COLS_> struct Tile {
    enum {
        ROWS = ROWS_,
        COLS = COLS_,
        CHUNKS = COLS / 8,
        PERMUTED = CHUNKS % 8 == 0 || CHUNKS == 4 || CHUNKS == 2,
        ROW_BYTES = 16 * (PERMUTED ? CHUNKS : CHUNKS | 1),
        BYTES = ROWS * ROW_BYTES
    };
    static_assert(COLS % 16 == 0, "an operand of the tensor cores is 16 deep");

    /// What the chunks of a row are permuted by; it repeats every 8 rows.
    static __forceinline__ u32 permutation(u32 row) {
        if constexpr (CHUNKS % 8 == 0) return row & 7;
        if constexpr (CHUNKS == 4) return (row >> 1) & 3;
        if constexpr (CHUNKS == 2) return (row >> 2) & 1;
        return 0;
    }

    /// Offset of a chunk in bytes.
    static __forceinline__ u32 at(u32 row, u32 chunk) { return row * ROW_BYTES + (chunk ^ permutation(row)) * 16; }
};

/// The part of a lane in reading 16x16 pieces of a tile with ldmatrix.x4.
template <class TILE> struct Lane {
    u32 row, chunk;

    /// The four matrices are: rows 0-7 then 8-15 of the first chunk, then of the second.
    static __forceinline__ Lane down() {
        u32 lane = threadIdx.x % 32;
        return of(lane % 16, lane / 16);
    }

    /// The four matrices are: both chunks of rows 0-7, then of rows 8-15.
    static __forceinline__ Lane across() {
        u32 lane = threadIdx.x % 32;
        return of(lane % 8 + lane / 16 * 8, lane / 8 % 2);
    }

    /// Offset in bytes of what this lane addresses of the piece at (row0, chunk0), multiples of 8 and 2.
    __forceinline__ u32 at(u32 row0, u32 chunk0) const {
        u32 offset = TILE::PERMUTED ? (chunk0 * 16) ^ chunk : chunk0 * 16 + chunk;
        return row0 * TILE::ROW_BYTES + row + offset;
    }

private:
    static __forceinline__ Lane of(u32 row, u32 chunk) {
        return {row * TILE::ROW_BYTES, (chunk ^ TILE::permutation(row)) * 16};
    }
};

/// The 16x16 piece at (m0, k chunk) as operand a, of a tile [m][k].
template <class TILE> __forceinline__ void read_a(u32 (&a)[4], u32 tile, Lane<TILE> down, u32 m0, u32 chunk) {
    ptx::ldmatrix_x4(a, tile + down.at(m0, chunk));
}

/// The same of a tile [k][m].
template <class TILE> __forceinline__ void read_a_transposed(u32 (&a)[4], u32 tile, Lane<TILE> across, u32 k0, u32 chunk) {
    ptx::ldmatrix_x4_trans(a, tile + across.at(k0, chunk));
}

/// The 16x16 piece at (n0, k chunk) as two operands b, columns n0 to n0+7 in b[0..2] and the next eight in b[2..4], of a tile [n][k].
template <class TILE> __forceinline__ void read_b(u32 (&b)[4], u32 tile, Lane<TILE> across, u32 n0, u32 chunk) {
    ptx::ldmatrix_x4(b, tile + across.at(n0, chunk));
}

/// The same of a tile [k][n].
template <class TILE> __forceinline__ void read_b_transposed(u32 (&b)[4], u32 tile, Lane<TILE> down, u32 k0, u32 chunk) {
    ptx::ldmatrix_x4_trans(b, tile + down.at(k0, chunk));
}

/// d += a · b. A lane holds of d: columns 2(l%4), 2(l%4)+1 of row l/4 in d[0..2], of row l/4+8 in d[2..4].
template <typename V> __forceinline__ void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1);
template <> __forceinline__ void mma<bf16>(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) { ptx::mma_bf16(d, a, b0, b1); }
template <> __forceinline__ void mma<f16>(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) { ptx::mma_f16(d, a, b0, b1); }
