// Computes          y = factor[c] crop(resize(x)) + offset[c], with the bytes that Pillow's Image.resize gives
// Shapes and layout x [B,H,W,3] of T, between the passes bytes [B,H,w,3], y [B,h,w,3] of U, contiguous
// Work split        columns: a block holds the weights of some columns and does 32 lines of them; rows: a block holds those of one row
// Shared memory     weights of each output, its first place and their number
// Numerics          weights in f64, operation by operation as Pillow has them, then whole numbers of 22 bits behind the point; sums are exact
// Specialised by    T, U, CUBIC (bicubic with a = -0.5, else bilinear)
// Entries           resample_columns, resample_rows
// Gradient          none: bytes are steps
// Sources           Pillow, Resample.c: the filters, the fixed point, the order of the passes
#include "params.cuh"
#include "types.cuh"

constexpr int BITS = 22;
constexpr u32 LINES = 32;

/// The filter at x. Products and sums are kept apart: fused they would round otherwise than on the processor.
__forceinline__ double filter(double x) {
    double d = fabs(x);
#if CUBIC
    if (d < 1.0) return __dadd_rn(__dmul_rn(__dmul_rn(__dadd_rn(__dmul_rn(1.5, d), -2.5), d), d), 1.0);
    if (d < 2.0) return __dmul_rn(__dadd_rn(__dmul_rn(__dadd_rn(__dmul_rn(d - 5.0, d), 8.0), d), -4.0), -0.5);
    return 0.0;
#else
    return d < 1.0 ? 1.0 - d : 0.0;
#endif
}

/// Weights of one output: those of the places from `first` on.
struct Taps {
    const i32 *weights;
    u32 first, count;
};

/// The weights that a block holds: `together` outputs with room for `reach` weights each.
struct Table {
    i32 *weights;
    u32 *first, *count;
    u32 reach;

    __device__ Table(i32 *shared, u32 together, u32 reach)
        : weights(shared), first(reinterpret_cast<u32 *>(shared) + together * reach), count(first + together), reach(reach) {}

    /// Computes those of output `o` of an axis that goes from `input` to `output` places, as entry `i`.
    __device__ void fill(u32 i, u32 o, u32 input, u32 output) {
        double scale = double(input) / double(output), stretch = scale > 1.0 ? scale : 1.0;
        double support = (CUBIC ? 2.0 : 1.0) * stretch, centre = __dmul_rn(double(o) + 0.5, scale);
        double start = centre - support + 0.5, end = centre + support + 0.5;
        u32 from = start > 0.0 ? u32(start) : 0, to = end < double(input) ? u32(end) : input;
        double total = 0.0;
        for (u32 at = from; at < to; at++) total = __dadd_rn(total, filter((double(at) - centre + 0.5) / stretch));
        for (u32 at = from; at < to; at++) {
            double weight = filter((double(at) - centre + 0.5) / stretch);
            if (total != 0.0) weight = weight / total;
            double scaled = __dmul_rn(weight, double(1 << BITS));
            weights[i * reach + at - from] = i32(scaled < 0.0 ? scaled - 0.5 : scaled + 0.5);
        }
        first[i] = from;
        count[i] = to - from;
    }

    __device__ Taps operator[](u32 i) const { return {weights + i * reach, first[i], count[i]}; }
};

/// A sum with its half as a byte.
__forceinline__ u32 level(i32 sum) { return u32(min(max(sum >> BITS, 0), 255)); }

/// A value as the byte that it stands for; NaN is 0.
__forceinline__ i32 byte_of(float x) { return i32(rintf(x > 0.0f ? (x < 255.0f ? x : 255.0f) : 0.0f)); }

extern "C" __global__ void __launch_bounds__(256) resample_columns(const __grid_constant__ ResampleParams p) {
    extern __shared__ i32 shared[];
    Table table(shared, p.together, p.reach);
    const T *x = p.x;
    u8 *bytes = p.bytes;
    u32 base = blockIdx.x * p.together, here = min(p.together, p.kept_width - base);
    if (threadIdx.x < here) table.fill(threadIdx.x, p.left + base + threadIdx.x, p.width, p.size_width);
    __syncthreads();
    u32 line0 = blockIdx.y * LINES, lines = min(LINES, p.lines - line0);
    for (u32 i = threadIdx.x; i < lines * here; i += blockDim.x) {
        u32 line = line0 + i / here, column = i % here;
        Taps taps = table[column];
        const T *from = x + (u64(line) * p.width + taps.first) * 3;
        i32 sum[3] = {1 << (BITS - 1), 1 << (BITS - 1), 1 << (BITS - 1)};
        for (u32 t = 0; t < taps.count; t++) {
#pragma unroll
            for (int c = 0; c < 3; c++) sum[c] += taps.weights[t] * byte_of(to_f32(from[t * 3 + c]));
        }
        u8 *to = bytes + (u64(line) * p.kept_width + base + column) * 3;
#pragma unroll
        for (int c = 0; c < 3; c++) to[c] = u8(level(sum[c]));
    }
}

extern "C" __global__ void __launch_bounds__(256) resample_rows(const __grid_constant__ ResampleParams p) {
    extern __shared__ i32 shared[];
    Table table(shared, 1, p.reach);
    const u8 *bytes = p.bytes;
    U *y = p.y;
    u32 row = blockIdx.y, image = blockIdx.z, wide = 3 * p.kept_width;
    if (threadIdx.x == 0) table.fill(0, p.top + row, p.height, p.size_height);
    __syncthreads();
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= wide) return;
    Taps taps = table[0];
    const u8 *from = bytes + (u64(image) * p.height + taps.first) * wide + i;
    i32 sum = 1 << (BITS - 1);
    for (u32 t = 0; t < taps.count; t++) sum += taps.weights[t] * i32(from[u64(t) * wide]);
    u32 c = i % 3;
    float factor = c == 0 ? p.factor0 : c == 1 ? p.factor1 : p.factor2, offset = c == 0 ? p.offset0 : c == 1 ? p.offset1 : p.offset2;
    y[(u64(image) * p.kept_height + row) * wide + i] = from_f32<U>(fmaf(factor, float(level(sum)), offset));
}
