// Storage types and vector accesses. Values are stored as bf16, f16 or f32 and computed with as f32.
// Template parameters of the headers have names that no kernel is specialised by: T, V, ACT and the like are macros.
#pragma once
#include "ptx.cuh"

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int i32;
typedef float f32;

/// bfloat16: the upper half of an f32.
struct bf16 {
    u16 bits;
};

/// IEEE half precision.
struct f16 {
    u16 bits;
};

__forceinline__ float to_f32(float x) { return x; }
__forceinline__ float to_f32(bf16 x) { return __uint_as_float(u32(x.bits) << 16); }
__forceinline__ float to_f32(f16 x) { return ptx::f16_to_f32(x.bits); }

template <typename Type> struct Storage;

/// How two values share a word, and how one is stored: all that differs between the types.
template <> struct Storage<bf16> {
    static __forceinline__ bf16 one(float x) { return bf16{ptx::f32_to_bf16(x)}; }
    static __forceinline__ u32 pair(float first, float second) { return ptx::pack_bf16(first, second); }
    static __forceinline__ float first(u32 word) { return __uint_as_float(word << 16); }
    static __forceinline__ float second(u32 word) { return __uint_as_float(word & 0xffff0000u); }
};

template <> struct Storage<f16> {
    static __forceinline__ f16 one(float x) { return f16{ptx::f32_to_f16(x)}; }
    static __forceinline__ u32 pair(float first, float second) { return ptx::pack_f16(first, second); }
    static __forceinline__ float first(u32 word) { return ptx::f16_to_f32(u16(word)); }
    static __forceinline__ float second(u32 word) { return ptx::f16_to_f32(u16(word >> 16)); }
};

template <> struct Storage<float> {
    static __forceinline__ float one(float x) { return x; }
};

/// x rounded to nearest even.
template <typename Type> __forceinline__ Type from_f32(float x) { return Storage<Type>::one(x); }

constexpr int lesser(int a, int b) { return a < b ? a : b; }
constexpr int greater(int a, int b) { return a < b ? b : a; }

/// 4, 8 or 16 bytes that move at once.
template <int WORDS> struct Words;
template <> struct Words<1> { typedef u32 type; };
template <> struct Words<2> { typedef uint2 type; };
template <> struct Words<4> { typedef uint4 type; };

/// N values of Type that lie beside each other, as they are stored; aligned to their size or to 16 bytes, whichever is less.
template <typename Type, int N> struct alignas(greater(4, lesser(16, N * int(sizeof(Type))))) Vec {
    // enumerators, because constants that have an address would be emitted as device memory
    enum { BYTES = N * int(sizeof(Type)), WORDS = BYTES < 4 ? 1 : BYTES / 4, STEP = lesser(WORDS, 4) };
    static_assert(BYTES < 4 || BYTES % 4 == 0, "a vector is one 16-bit value or whole words");
    u32 words[WORDS];

    static __forceinline__ Vec load(const Type *at) {
        Vec v;
        if constexpr (BYTES < 4) {
            v.words[0] = *reinterpret_cast<const u16 *>(at);
        } else {
            typedef typename Words<STEP>::type Word;
#pragma unroll
            for (int i = 0; i < WORDS / STEP; i++) {
                Word w = reinterpret_cast<const Word *>(at)[i];
                *reinterpret_cast<Word *>(&v.words[i * STEP]) = w;
            }
        }
        return v;
    }

    __forceinline__ void store(Type *at) const {
        if constexpr (BYTES < 4) {
            *reinterpret_cast<u16 *>(at) = u16(words[0]);
        } else {
            typedef typename Words<STEP>::type Word;
#pragma unroll
            for (int i = 0; i < WORDS / STEP; i++) {
                reinterpret_cast<Word *>(at)[i] = *reinterpret_cast<const Word *>(&words[i * STEP]);
            }
        }
    }

    static __forceinline__ Vec zero() {
        Vec v;
#pragma unroll
        for (int i = 0; i < WORDS; i++) v.words[i] = 0;
        return v;
    }

    /// The value at i, which must be known when compiling.
    __forceinline__ float operator[](int i) const {
        if constexpr (sizeof(Type) == 4) {
            return __uint_as_float(words[i]);
        } else {
            return i % 2 ? Storage<Type>::second(words[i / 2]) : Storage<Type>::first(words[i / 2]);
        }
    }

    static __forceinline__ Vec of(const float (&x)[N]) {
        Vec v;
        if constexpr (sizeof(Type) == 4) {
#pragma unroll
            for (int i = 0; i < N; i++) v.words[i] = __float_as_uint(x[i]);
        } else if constexpr (N == 1) {
            v.words[0] = Storage<Type>::one(x[0]).bits;
        } else {
#pragma unroll
            for (int i = 0; i < N / 2; i++) v.words[i] = Storage<Type>::pair(x[2 * i], x[2 * i + 1]);
        }
        return v;
    }
};

/// N values from `at`, which is aligned as Vec<Type, N> is.
template <int N, typename Type> __forceinline__ void load(float (&x)[N], const Type *at) {
    Vec<Type, N> v = Vec<Type, N>::load(at);
#pragma unroll
    for (int i = 0; i < N; i++) x[i] = v[i];
}

/// N values to `at`, which is aligned as Vec<Type, N> is.
template <int N, typename Type> __forceinline__ void store(Type *at, const float (&x)[N]) {
    Vec<Type, N>::of(x).store(at);
}

/// The first `count` values of N, for the last vector of an array; the others are zero.
template <int N, typename Type> __forceinline__ void load_some(float (&x)[N], const Type *at, u32 count) {
    if (count >= N) return load(x, at);
#pragma unroll
    for (int i = 0; i < N; i++) x[i] = i < int(count) ? to_f32(at[i]) : 0.0f;
}

/// Only the first `count` values of N.
template <int N, typename Type> __forceinline__ void store_some(Type *at, const float (&x)[N], u32 count) {
    if (count >= N) return store(at, x);
#pragma unroll
    for (int i = 0; i < N; i++) {
        if (i < int(count)) at[i] = from_f32<Type>(x[i]);
    }
}
