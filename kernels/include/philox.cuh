// Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011): random words that are a function of key and counter alone.
#pragma once
#include "trig.cuh"
#include "types.cuh"

__forceinline__ uint4 philox4x32(uint2 key, uint4 counter) {
#pragma unroll
    for (int round = 0; round < 10; round++) {
        u32 high0 = __umulhi(0xD2511F53u, counter.x), low0 = 0xD2511F53u * counter.x;
        u32 high1 = __umulhi(0xCD9E8D57u, counter.z), low1 = 0xCD9E8D57u * counter.z;
        counter = make_uint4(high1 ^ counter.y ^ key.x, low1, high0 ^ counter.w ^ key.y, low0);
        key.x += 0x9E3779B9u;
        key.y += 0xBB67AE85u;
    }
    return counter;
}

/// sqrt(-2 ln u) of u = (word + 1/2) / 2^32, from the nearer end of the interval so that nothing cancels.
__forceinline__ float normal_radius(u32 word) {
    constexpr float UNIT = 1.0f / 4294967296.0f;
    float log = word >> 31 ? log1pf(-(float(~word) + 0.5f) * UNIT) : logf((float(word) + 0.5f) * UNIT);
    return sqrtf(-2.0f * log);
}

/// Sine of a turn times (word + 1/2) / 2^32: whole quarters are taken off before anything is rounded.
__forceinline__ float sine_of_turn(u32 word) {
    constexpr float UNIT = 6.283185307179586f / 4294967296.0f;
    u32 quarters = (word + (1u << 29)) >> 30;
    float rest = float(i32(word - (quarters << 30))) + 0.5f;
    return quarter_turns(quarters, rest * UNIT).sine;
}

/// The normal number at `element` under `seed` (Box, Muller 1958): that of src/pipeline/noise.rs to f32 rounding.
__forceinline__ float philox_normal(uint2 seed, u64 element) {
    uint4 words = philox4x32(seed, make_uint4(0, 0, u32(element), u32(element >> 32)));
    return normal_radius(words.x) * sine_of_turn(words.y);
}
