// Rows of one head: where q, k, v and y of attention lie, and how they come into shared memory and out of it.
#pragma once
#include "tile.cuh"

/// `count` rows, `pitch` values apart, of `width` values each. Of values that are only read, V is const.
template <typename V> struct HeadRows {
    V *base;
    u32 pitch, count, width;

    __forceinline__ V *row(u32 index) const { return base + u64(index) * pitch; }
};

/// The rows of head blockIdx.y of image blockIdx.z; heads of `width` values lie side by side.
template <typename V> __forceinline__ HeadRows<V> head_rows(V *base, u32 pitch, u32 count, u32 width) {
    return HeadRows<V>{base + u64(blockIdx.z) * count * pitch + blockIdx.y * width, pitch, count, width};
}

/// Starts filling a tile with the rows from `first`; rows beyond the end and columns beyond the width are zero.
/// Aligned: base, pitch and width are multiples of 8 values. Ends no group of copies.
/// Rows of one image are fewer than 2^32 values: the offset within them is one number, and no address is computed twice.
template <class TILE, int Threads, bool Aligned, typename V> __forceinline__ void fill_rows(u8 *shared, u32 offset, const HeadRows<const V> &rows, u32 first) {
    enum { CHUNKS = int(TILE::ROWS) * int(TILE::CHUNKS), STEP = Threads / TILE::CHUNKS };
    // where a thread has the same chunk of rows that lie whole permutations apart, only the row moves on
    enum { SAME = Threads % TILE::CHUNKS == 0 && (!TILE::PERMUTED || STEP % 8 == 0) };
#pragma unroll
    for (int i = 0; i < (CHUNKS + Threads - 1) / Threads; i++) {
        u32 item = threadIdx.x + (SAME ? 0 : i * Threads), row = item / TILE::CHUNKS, column = item % TILE::CHUNKS * 8;
        if (CHUNKS % Threads != 0 && threadIdx.x + i * Threads >= CHUNKS) break;
        const u32 down = SAME ? i * STEP : 0;
        u32 to = offset + TILE::at(row, column / 8) + down * TILE::ROW_BYTES;
        bool valid = first + row + down < (column < rows.width ? rows.count : 0);
        const V *at = rows.base + ((first + row) * rows.pitch + column + down * rows.pitch);
        if constexpr (Aligned) {
            // what is not valid is not read
            ptx::cp_async_16(ptx::shared_address(shared) + to, at, valid ? 16 : 0);
        } else {
            u32 words[4] = {};
#pragma unroll
            for (int e = 0; e < 8; e++)
                if (valid && column + e < rows.width) words[e / 2] |= u32(at[e].bits) << e % 2 * 16;
            *reinterpret_cast<uint4 *>(shared + to) = make_uint4(words[0], words[1], words[2], words[3]);
        }
    }
}

/// Rows from `tile_row` of a finished tile to rows from `first`, 16 bytes at a time, by `lanes` threads.
template <class TILE, bool Aligned, typename V>
__forceinline__ void store_rows(const HeadRows<V> &rows, u32 first, const u8 *tile, u32 tile_row, u32 tile_rows, u32 lane, u32 lanes) {
    for (u32 item = lane; item < tile_rows * TILE::CHUNKS; item += lanes) {
        u32 row = item / TILE::CHUNKS, column = item % TILE::CHUNKS * 8;
        if (first + row >= rows.count || column >= rows.width) continue;
        V *to = rows.row(first + row) + column;
        const u8 *from = tile + TILE::at(tile_row + row, column / 8);
        if constexpr (Aligned) {
            *reinterpret_cast<uint4 *>(to) = *reinterpret_cast<const uint4 *>(from);
        } else {
#pragma unroll
            for (int e = 0; e < 8; e++)
                if (column + e < rows.width) to[e] = reinterpret_cast<const V *>(from)[e];
        }
    }
}
