// Rows that fit into registers: Lanes threads hold one row, each Vectors vectors of Width values; a block of Threads
// threads holds Threads / Lanes rows at a time, or a block of Lanes threads one where a warp is too few, and walks on until its rows are done.
#pragma once
#include "reduce.cuh"
#include "types.cuh"

template <int Width, int Vectors, int Lanes, int Threads = 256> struct Row {
    enum { THREADS = Lanes > 32 ? Lanes : Threads, AT_ONCE = THREADS / Lanes, PARTS = Lanes > 32 ? Lanes / 32 : 1 };
    float x[Vectors][Width];

    static __forceinline__ u32 lane() { return threadIdx.x % Lanes; }
    /// The row of this thread, among those that the block holds at a time.
    static __forceinline__ u32 place() { return threadIdx.x / Lanes; }
    static __forceinline__ u32 column(int k) { return (k * Lanes + lane()) * Width; }

    /// Columns from `width` on, and all of a row that is not there, are `otherwise`.
    template <typename Type> __forceinline__ void load_row(const Type *at, u32 width, bool there, float otherwise = 0.0f) {
#pragma unroll
        for (int k = 0; k < Vectors; k++) {
            if (there && column(k) < width) {
                load(x[k], at + column(k));
            } else {
#pragma unroll
                for (int j = 0; j < Width; j++) x[k][j] = otherwise;
            }
        }
    }

    template <typename Type> __forceinline__ void store_row(Type *at, u32 width, bool there) const {
#pragma unroll
        for (int k = 0; k < Vectors; k++) {
            if (there && column(k) < width) store(at + column(k), x[k]);
        }
    }

    /// f(value, k, j) over the values of this thread that are columns of the row, summed or otherwise joined by Join over all its threads.
    template <typename Join, typename Function> __forceinline__ float join(u32 width, float start, float *parts, Function f) const {
        float total = start;
#pragma unroll
        for (int k = 0; k < Vectors; k++) {
            if (column(k) < width) {
#pragma unroll
                for (int j = 0; j < Width; j++) total = Join::of(total, f(x[k][j], k, j));
            }
        }
        return over_threads<Join, Lanes>(total, parts);
    }

    template <typename Function> __forceinline__ void each(Function f) {
#pragma unroll
        for (int k = 0; k < Vectors; k++) {
#pragma unroll
            for (int j = 0; j < Width; j++) x[k][j] = f(x[k][j], k, j);
        }
    }
};
