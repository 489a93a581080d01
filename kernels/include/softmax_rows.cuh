// Softmax over scores that arrive a tile at a time (Milakov and Gimelshein 2018), for rows spread over the four lanes of a quad.
#pragma once
#include "ptx.cuh"
#include "types.cuh"

__forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

__forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

/// Of one row: the largest score that it was raised for, in units of log 2, and the sum of 2^(score - top) over this lane's scores.
struct RowState {
    float top = -__uint_as_float(0x7f800000u), total = 0.0f;

    /// Takes the largest score of a new tile; what was summed before is to be multiplied by the result.
    __forceinline__ float raise(float score) {
        float before = top;
        top = fmaxf(top, score);
        // -inf minus -inf would be NaN: nothing was summed yet
        float factor = ptx::ex2(before - top);
        total *= factor;
        return factor;
    }
};
