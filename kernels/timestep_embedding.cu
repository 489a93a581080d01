// Computes          [cos(t f), sin(t f)] or the sine first, f_i = 10000^(-i / (dim/2 - shift))
// Shapes and layout t [B] f32, y [B,dim] of T
// Work split        one thread per frequency of an image, which writes both its cosine and its sine
// Shared memory     none
// Numerics          f = e^x is rounded to f32 from f64, as the published models' is, because t f multiplies its error by 1000;
//                   the angle is reduced in f64 and its sine and cosine are computed in f32 (trig.cuh)
// Specialised by    T
// Entries           timestep_embedding_forward
// Gradient          none: timesteps are not trained
// Sources           Vaswani et al. 2017, section 3.5; Ho, Jain, Abbeel 2020; diffusers, get_timestep_embedding (shift, order)
#include "params.cuh"
#include "trig.cuh"
#include "types.cuh"

extern "C" __global__ void __launch_bounds__(128) timestep_embedding_forward(const __grid_constant__ TimestepEmbeddingParams p) {
    const float *t = p.t;
    T *y = p.y;
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= p.images * p.half) return;
    u32 image = i / p.half, k = i - image * p.half;
    float exponent = -p.log_base * float(k) / (float(p.half) - p.shift);
    float angle = t[image] * float(exp(double(exponent)));
    SineCosine turn = sine_cosine(angle);
    T *row = y + u64(image) * p.half * 2;
    row[k] = from_f32<T>(p.cosine_first ? turn.cosine : turn.sine);
    row[p.half + k] = from_f32<T>(p.cosine_first ? turn.sine : turn.cosine);
}
