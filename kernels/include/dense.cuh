// How the tiles of a product are filled from operands of any layout: for the fillers of gemm.cuh and for fma.cuh (`FILL` is then Plain).
#pragma once
#include "product.cuh"

/// A row or column of the result by its place in a tile that starts at `first`; those beyond the end repeat the last one.
struct Within {
    u32 first, count;

    __forceinline__ u32 operator()(u32 r) const { return min(first + r, count - 1); }
};

/// The same of a weight: gated tiles hold, for each warp of WARP columns, half values and half gates.
template <bool Gated, int WARP> struct WeightRow {
    u32 first, columns;

    __forceinline__ u32 operator()(u32 r) const {
        if constexpr (!Gated) return Within{first, columns}(r);
        u32 within = r % WARP, column = Within{first + r / WARP * (WARP / 2), columns}(within % (WARP / 2));
        return within < WARP / 2 ? column : columns + column;
    }
};

/// A source of rows [row][k] for a filler's tile: `row_of` gives the row of memory of row r of the tile; `shape` is what the source is told.
template <class FILL, class SOURCE, class SHAPE, class ROW>
__forceinline__ SOURCE along(const typename SOURCE::Value *base, const SHAPE &shape, const Work &work, ROW row_of) {
    return SOURCE(base, shape, work.begin + FILL::chunk() * 8, work.end, [&](int i) { return row_of(FILL::row() + i * FILL::STEP); });
}

/// A source of columns [k][column] for a filler's tile that starts at column `first` of `columns`.
template <class FILL, typename V, class PLACE> __forceinline__ ColumnSource<V, PLACE> across(const V *base, PLACE place, const Work &work, u32 first, u32 columns) {
    return ColumnSource<V, PLACE>(base, place, work.begin + FILL::row(), FILL::STEP, work.end, first + FILL::chunk() * 8, columns);
}

/// The same for the plain product, whose threads have one column each.
template <typename V, class PLACE> __forceinline__ ColumnSource<V, PLACE> down(const V *base, PLACE place, const Work &work, u32 first, u32 columns) {
    return ColumnSource<V, PLACE>(base, place, work.begin + 8 * Plain::chunk(), 0, work.end, first + Plain::row(), columns);
}
