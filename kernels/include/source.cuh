// Where the operands of a matrix product come from: each thread brings COUNT chunks of 8 neighbours along k into a tile.
// A source gives the chunk of each of its thread's rows at the thread's current k, or single values where rows are not aligned.
#pragma once
#include "tile.cuh"

/// 8 values of memory, or none (then they count as zero, and the address is anything).
template <typename V> struct Chunk {
    const V *at;
    bool valid;
};

/// Rows of a matrix that is contiguous along k. The rows beyond its end repeat the last one: what they make is not stored.
template <typename V, int COUNT> struct RowSource {
    typedef V Value;
    enum { ACROSS = 0 };
    const V *base;
    u32 start[COUNT];
    u32 k, k_end;

    template <class ROW> __forceinline__ RowSource(const V *base, u32 pitch, u32 k, u32 k_end, ROW row_of) : base(base), k(k), k_end(k_end) {
#pragma unroll
        for (int i = 0; i < COUNT; i++) start[i] = row_of(i) * pitch;
    }

    __forceinline__ Chunk<V> chunk(int i) const { return value(i, 0); }

    __forceinline__ Chunk<V> value(int i, u32 e) const { return {base + (start[i] + k + e), k + e < k_end}; }

    __forceinline__ void advance(u32 step) { k += step; }
};

/// A second matrix beside a first one, and the columns of both.
template <typename V> struct Beside {
    const V *at;
    u32 first, second;
};

/// Rows of two matrices side by side, both contiguous along k: what the second one holds starts at k = first.
template <typename V, int COUNT> struct BesideSource {
    typedef V Value;
    enum { ACROSS = 0 };
    const V *x;
    const Beside<V> beside;
    u32 row[COUNT];
    u32 k, k_end;

    template <class ROW>
    __forceinline__ BesideSource(const V *x, const Beside<V> &beside, u32 k, u32 k_end, ROW row_of) : x(x), beside(beside), k(k), k_end(k_end) {
#pragma unroll
        for (int i = 0; i < COUNT; i++) row[i] = row_of(i);
    }

    /// Where rows are aligned, the seam is as well, and no chunk lies across it.
    __forceinline__ Chunk<V> chunk(int i) const { return value(i, 0); }

    __forceinline__ Chunk<V> value(int i, u32 e) const {
        u32 at = k + e;
        if (at >= k_end) return {x, false};
        return {at < beside.first ? x + row[i] * beside.first + at : beside.at + row[i] * beside.second + (at - beside.first), true};
    }

    __forceinline__ void advance(u32 step) { k += step; }
};

/// Rows of the transposed matrix: chunks lie along the rows or columns of the result, k runs down the rows of memory. For tiles
/// [k][m]. PLACE gives the address in memory of (k, column) as `bool place(u32 k, u32 column, u32 &at)`, false where it counts as zero.
template <typename V, class PLACE> struct ColumnSource {
    typedef V Value;
    enum { ACROSS = 1 };
    const V *base;
    PLACE place;
    u32 k, k_step, k_end, column, columns;

    /// The thread brings rows k, k + k_step, ... of the 8 columns from `column`.
    __forceinline__ ColumnSource(const V *base, PLACE place, u32 k, u32 k_step, u32 k_end, u32 column, u32 columns)
        : base(base), place(place), k(k), k_step(k_step), k_end(k_end), column(column), columns(columns) {}

    __forceinline__ Chunk<V> chunk(int i) const { return find(k + i * k_step, column); }

    __forceinline__ Chunk<V> value(int i, u32 e) const { return find(k + i * k_step, column + e); }

    /// The value of the thread's one column that is e further along k.
    __forceinline__ Chunk<V> along(u32 e) const { return find(k + e, column); }

    __forceinline__ void advance(u32 step) { k += step; }

private:
    __forceinline__ Chunk<V> find(u32 row, u32 at_column) const {
        u32 at;
        bool valid = row < k_end && at_column < columns && place(row, at_column, at);
        return {base + (valid ? at : 0), valid};
    }
};

/// A dense matrix, as a PLACE.
struct Dense {
    u32 pitch;

    __forceinline__ bool operator()(u32 k, u32 column, u32 &at) const {
        at = k * pitch + column;
        return true;
    }
};

/// Brings chunks of a source into tiles of shared memory. Aligned: every chunk starts at a multiple of 16 bytes.
template <class TILE, class SOURCE, int THREADS, bool Aligned> struct Filler {
    typedef typename SOURCE::Value Value;
    enum { STEP = THREADS / TILE::CHUNKS, COUNT = TILE::ROWS / STEP };
    static_assert(THREADS % TILE::CHUNKS == 0 && TILE::ROWS % STEP == 0 && STEP % 8 == 0, "each thread has the same chunk of its rows");
    SOURCE source;
    u32 place;

    __forceinline__ explicit Filler(SOURCE source) : source(source), place(TILE::at(row(), chunk())) {}

    /// The first row that this thread fills; the others follow in steps of STEP.
    static __forceinline__ u32 row() { return threadIdx.x / TILE::CHUNKS; }
    static __forceinline__ u32 chunk() { return threadIdx.x % TILE::CHUNKS; }

    /// Starts filling the tile at `shared + offset` and moves the source on by `depth` along k.
    __forceinline__ void fill(u8 *shared, u32 offset, u32 depth) {
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            u32 to = offset + place + i * STEP * TILE::ROW_BYTES;
            if constexpr (Aligned) {
                Chunk<Value> c = source.chunk(i);
                ptx::cp_async_16(ptx::shared_address(shared) + to, c.at, c.valid ? 16 : 0);
            } else {
                *reinterpret_cast<uint4 *>(shared + to) = gather(i);
            }
        }
        source.advance(depth);
    }

private:
    __forceinline__ uint4 gather(int i) const {
        u32 words[4];
#pragma unroll
        for (int w = 0; w < 4; w++) words[w] = bits(i, 2 * w) | bits(i, 2 * w + 1) << 16;
        return make_uint4(words[0], words[1], words[2], words[3]);
    }

    __forceinline__ u32 bits(int i, u32 e) const {
        Chunk<Value> c = source.value(i, e);
        return c.valid ? c.at->bits : 0;
    }
};
