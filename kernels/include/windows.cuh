// The windows of a convolution as rows of a matrix that is never stored: row (image, oy, ox), k = (ky, kx, channel).
#pragma once
#include "params.cuh"
#include "source.cuh"

/// How a tap finds its pixel. RESIZE_BACK: the other way round, from pixels of the input to those of the output whose windows hold them, in steps
/// of one pixel whatever the stride.
enum Resize { RESIZE_NONE, RESIZE_DOUBLE, RESIZE_ANY, RESIZE_BACK };

/// The pixel of memory under a tap of the window of output pixel `row`, whose steps are as far down as across; false where that is padding.
template <int Mode> __forceinline__ bool window_pixel(const Geometry &g, u32 row, u32 ky, u32 kx, u32 &pixel) {
    u32 pixels = g.out_height * g.out_width, b = row / pixels, within = row % pixels;
    u32 y = within / g.out_width * g.stride_y + ky - g.top, x = within % g.out_width * g.stride_y + kx - g.left;
    bool valid = y < g.resized_height && x < g.resized_width;
    if constexpr (Mode == RESIZE_DOUBLE) y /= 2, x /= 2;
    if constexpr (Mode == RESIZE_ANY) y = y * g.height / g.resized_height, x = x * g.width / g.resized_width;
    pixel = (b * g.height + y) * g.width + x;
    return valid;
}

/// COUNT windows of one thread. Taps change rarely: offsets are computed when they do, in between k only moves along channels.
template <typename V, int COUNT, int Mode> struct WindowSource {
    typedef V Value;
    enum { ACROSS = 0 };
    const V *base;
    const Geometry g;
    u32 image[COUNT];  // first pixel of the row's image in memory
    u32 corner[COUNT]; // y and x of the window's corner in the resized image, 16 bits each, signed
    u32 start[COUNT];  // of the current tap
    u32 inside;        // bit i: the current tap of window i lies in the image, and k before its end
    u32 k, k_end, channel;

    template <class ROW> __forceinline__ WindowSource(const V *base, const Geometry &g, u32 k, u32 k_end, ROW row_of) : base(base), g(g), k(k), k_end(k_end) {
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            u32 row = row_of(i), pixels = g.out_height * g.out_width;
            u32 b = row / pixels, pixel = row % pixels, oy = pixel / g.out_width, ox = pixel % g.out_width;
            image[i] = b * g.height * g.width;
            i32 y = Mode == RESIZE_BACK ? i32(oy) + g.top : i32(oy * g.stride_y) - g.top;
            i32 x = Mode == RESIZE_BACK ? i32(ox) + g.left : i32(ox * g.stride_x) - g.left;
            corner[i] = u32(y) << 16 | (u32(x) & 0xffff);
        }
        seek();
        if (k >= k_end) inside = 0;
    }

    __forceinline__ Chunk<V> chunk(int i) const { return {base + (start[i] + channel), (inside & 1u << i) != 0}; }

    __forceinline__ Chunk<V> value(int i, u32 e) const {
        u32 at = k + e, tap = at / g.channels, pixel;
        bool valid = locate(i, tap / g.kernel_width, tap % g.kernel_width, pixel) && at < k_end;
        return {base + (valid ? pixel * g.channels + at % g.channels : 0), valid};
    }

    __forceinline__ void advance(u32 step) {
        k += step;
        channel += step;
        if (channel >= g.channels) seek();
        if (k >= k_end) inside = 0;
    }

private:
    /// Finds tap and channel of k.
    __forceinline__ void seek() {
        u32 tap = k / g.channels, ky = tap / g.kernel_width, kx = tap % g.kernel_width;
        channel = k % g.channels;
        inside = 0;
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            u32 pixel;
            if (locate(i, ky, kx, pixel)) inside |= 1u << i;
            start[i] = pixel * g.channels;
        }
    }

    /// The pixel of memory under a tap of window i; false where that is padding.
    __forceinline__ bool locate(int i, u32 ky, u32 kx, u32 &pixel) const {
        i32 corner_y = i32(corner[i]) >> 16, corner_x = i32(corner[i] << 16) >> 16;
        u32 y = corner_y + i32(ky), x = corner_x + i32(kx);
        if constexpr (Mode == RESIZE_BACK) {
            // negative ones become too large
            y = corner_y - i32(ky), x = corner_x - i32(kx);
            pixel = image[i] + y * g.width + x;
            return y < g.height && x < g.width;
        }
        bool valid = y < g.resized_height && x < g.resized_width;
        if constexpr (Mode == RESIZE_DOUBLE) y /= 2, x /= 2;
        if constexpr (Mode == RESIZE_ANY) y = y * g.height / g.resized_height, x = x * g.width / g.resized_width;
        pixel = image[i] + y * g.width + x;
        return valid;
    }
};
