// What follows a product before its result is rounded once: bias, row bias, residual, activation, gate. Works on 8 columns of a row.
#pragma once
#include "act.cuh"
#include "types.cuh"

/// Adds 8 values from `at`, those beyond `count` excepted. Wide: all 8 are there and aligned.
template <bool Wide, typename V> __forceinline__ void add8(float (&v)[8], const V *at, u32 count) {
    if constexpr (Wide) {
        float x[8];
        load<8>(x, at);
#pragma unroll
        for (int e = 0; e < 8; e++) v[e] += x[e];
    } else {
#pragma unroll
        for (int e = 0; e < 8; e++)
            if (e < count) v[e] += to_f32(at[e]);
    }
}

/// Stores 8 values at `at`, those beyond `count` excepted.
template <bool Wide, typename V> __forceinline__ void put8(V *at, const float (&v)[8], u32 count) {
    if constexpr (Wide) {
        store<8>(at, v);
    } else {
#pragma unroll
        for (int e = 0; e < 8; e++)
            if (e < count) at[e] = from_f32<V>(v[e]);
    }
}

/// Null pointers are terms that are absent. Wide: `columns` is a multiple of 8.
template <typename V, int Function, bool Wide, bool ResidualFirst, bool Gates = false> struct Epilogue {
    enum { GATES = Gates };
    u32 rows, columns;
    const float *bias;
    const V *row_bias; // [rows / rows_per_image][columns]
    u32 rows_per_image;
    const V *residual;
    const float *slope; // [columns], PReLU
    float negative;     // LeakyReLU
    V *y;

    /// y[row][column ..] of sums v.
    __forceinline__ void put(u32 row, u32 column, float (&v)[8]) const {
        if (row >= rows || column >= columns) return;
        u32 count = columns - column;
        if (bias) add8<Wide>(v, bias + column, count);
        if (row_bias) add8<Wide>(v, row_bias + u64(row / rows_per_image) * columns + column, count);
        if constexpr (ResidualFirst) add_residual(row, column, v);
#pragma unroll
        for (int e = 0; e < 8; e++) {
            float negative_slope = Function == ACT_PRELU ? (Wide || e < count ? slope[column + e] : 0.0f) : negative;
            v[e] = activate<Function>(v[e], negative_slope);
        }
        if constexpr (!ResidualFirst) add_residual(row, column, v);
        put8<Wide>(y + u64(row) * columns + column, v, count);
    }

    /// The same for a layer with gates: v · gelu(gates), whose bias follows that of the values.
    __forceinline__ void put_gated(u32 row, u32 column, float (&v)[8], float (&gates)[8]) const {
        if (row >= rows || column >= columns) return;
        u32 count = columns - column;
        if (bias) {
            add8<Wide>(v, bias + column, count);
            add8<Wide>(gates, bias + columns + column, count);
        }
#pragma unroll
        for (int e = 0; e < 8; e++) v[e] *= activate<ACT_GELU>(gates[e]);
        add_residual(row, column, v);
        put8<Wide>(y + u64(row) * columns + column, v, count);
    }

private:
    __forceinline__ void add_residual(u32 row, u32 column, float (&v)[8]) const {
        if (residual) add8<Wide>(v, residual + u64(row) * columns + column, columns - column);
    }
};
