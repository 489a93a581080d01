// Computes          y[b] = c[b,0] x[b] + c[b,1] noise[b]
// Shapes and layout x, noise [B,..] f32, c [B,2] f32, y [B,..] of U, contiguous
// Work split        one thread per V values, which divides an image
// Shared memory     none
// Numerics          f32, rounded once; coefficients are read from the device
// Specialised by    U, V (values per access)
// Entries           add_noise_forward
// Gradient          add_noise_grad.cu
// Sources           Ho, Jain, Abbeel 2020, equation 4
#include "params.cuh"
#include "types.cuh"

extern "C" __global__ void __launch_bounds__(256) add_noise_forward(const __grid_constant__ AddNoiseParams p) {
    u32 i = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (i >= p.count) return;
    float2 c = static_cast<const float2 *>(p.coefficients)[i / p.image];
    float x[V], noise[V];
    load(x, static_cast<const float *>(p.x) + i);
    load(noise, static_cast<const float *>(p.noise) + i);
#pragma unroll
    for (int j = 0; j < V; j++) x[j] = fmaf(c.x, x[j], c.y * noise[j]);
    store(static_cast<U *>(p.y) + i, x);
}
