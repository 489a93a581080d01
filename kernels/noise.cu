// Computes          y = normal noise; image b is a function of seed[b] and the element alone
// Shapes and layout seed [B,2] i32 (low word, high word), y [B,H,W,C] f32; elements are numbered as in [C,H,W]
// Work split        one thread per value
// Shared memory     none
// Numerics          Philox4x32-10 and Box-Muller in f32, exact words, to a few units in the last place
// Specialised by    nothing
// Entries           noise_forward
// Gradient          none: seeds are not trained
// Sources           Salmon et al. 2011; Box, Muller 1958
#include "params.cuh"
#include "philox.cuh"

extern "C" __global__ void __launch_bounds__(256) noise_forward(const __grid_constant__ NoiseParams p) {
    const uint2 *seeds = p.seed;
    float *y = p.y;
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.images * p.pixels * p.channels) return;
    u32 pixel = i / p.channels, channel = i - pixel * p.channels;
    u32 image = pixel / p.pixels;
    y[i] = philox_normal(seeds[image], u64(channel) * p.pixels + (pixel - image * p.pixels));
}
