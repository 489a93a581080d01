// Products of two dense matrices with any of the layouts: how linear layers and their gradients fill gemm.cuh and fma.cuh.
#pragma once
#include "fma.cuh"
#include "gemm.cuh"

/// The part of the depth that a block adds.
struct Part {
    u32 begin, end;

    static __forceinline__ Part of(u32 depth, u32 split_depth) {
        u32 begin = blockIdx.z * split_depth;
        return {begin, min(begin + split_depth, depth)};
    }

    __forceinline__ u32 steps(u32 step) const { return (end - begin + step - 1) / step; }
};

/// A source of rows [row][k] for a filler's tile: `row_of` gives the row of memory of row r of the tile.
template <class FILL, typename V, int COUNT, class ROW> __forceinline__ RowSource<V, COUNT> along(const V *base, u32 pitch, Part part, ROW row_of) {
    return RowSource<V, COUNT>(base, pitch, part.begin + FILL::chunk() * 8, part.end, [&](int i) { return row_of(FILL::row() + i * FILL::STEP); });
}

/// A source of columns [k][column] for a filler's tile that starts at column `first` of `columns`.
template <class FILL, typename V, class PLACE> __forceinline__ ColumnSource<V, PLACE> across(const V *base, PLACE place, Part part, u32 first, u32 columns) {
    return ColumnSource<V, PLACE>(base, place, part.begin + FILL::row(), FILL::STEP, part.end, first + FILL::chunk() * 8, columns);
}
