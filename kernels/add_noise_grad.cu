// Computes          dx = c0 dy,  dnoise = c1 dy,  dc = (sum of x dy, sum of noise dy) of each image
// Shapes and layout x, noise, dx, dnoise [B,N] f32; dy [B,N] of T; c, dc [B,2] f32; contiguous
// Work split        one block of 256 threads per image
// Shared memory     sixteen floats
// Numerics          f32, in an order that depends on the shape alone
// Specialised by    T
// Entries           add_noise_grad_all
// Gradient          none
// Sources           as add_noise.cu
#include "params.cuh"
#include "reduce.cuh"
#include "types.cuh"

extern "C" __global__ void __launch_bounds__(256) add_noise_grad_all(const __grid_constant__ AddNoiseGradParams p) {
    __shared__ float parts[2][8];
    u64 start = u64(blockIdx.x) * p.image;
    const float *x = static_cast<const float *>(p.x) + start, *noise = static_cast<const float *>(p.noise) + start;
    const T *dy = static_cast<const T *>(p.dy) + start;
    float *dx = static_cast<float *>(p.dx) + start, *dnoise = static_cast<float *>(p.dnoise) + start;
    float2 c = static_cast<const float2 *>(p.coefficients)[blockIdx.x];
    float of_x = 0.0f, of_noise = 0.0f;
    for (u32 i = threadIdx.x; i < p.image; i += 256) {
        float d = to_f32(dy[i]);
        of_x = fmaf(x[i], d, of_x);
        of_noise = fmaf(noise[i], d, of_noise);
        dx[i] = c.x * d;
        dnoise[i] = c.y * d;
    }
    of_x = over_threads<Sum, 256>(of_x, parts[0]);
    of_noise = over_threads<Sum, 256>(of_noise, parts[1]);
    if (threadIdx.x == 0) static_cast<float2 *>(p.dcoefficients)[blockIdx.x] = make_float2(of_x, of_noise);
}
