// Computes          one step of AdamW: m' = b1 m + (1-b1) g,  v' = b2 v + (1-b2) g^2,
//                   w' = w - rate (m' / c1 / (sqrt(v' / c2) + eps) + decay w), and w' once more as the model reads it
// Shapes and layout gradient of T; w, m, v and their successors f32; weight of U; all of one shape, contiguous;
//                   rates [4] f32: learning rate, c1 = 1 - b1^t, c2 = 1 - b2^t, factor of the gradient
// Work split        one thread per V values; every element is read before it is written, so a state may be updated in place
// Shared memory     none
// Numerics          f32; rates are read from the device, so one captured graph serves every step
// Specialised by    T, U, V (values per access)
// Entries           adam_w_forward
// Gradient          none
// Sources           Loshchilov, Hutter 2019
#include "params.cuh"
#include "types.cuh"

extern "C" __global__ void __launch_bounds__(256) adam_w_forward(const __grid_constant__ AdamWParams p) {
    const float *master = p.master, *first = p.first, *second = p.second, *rates = p.rates;
    const T *gradient = p.gradient;
    u32 i = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (i >= p.count) return;
    u32 left = p.count - i;
    float w[V], g[V], m[V], v[V];
    load_some(w, master + i, left);
    load_some(g, gradient + i, left);
    load_some(m, first + i, left);
    load_some(v, second + i, left);
    float rate = rates[0], inverse1 = 1.0f / rates[1], inverse2 = 1.0f / rates[2], factor = rates[3];
#pragma unroll
    for (int j = 0; j < V; j++) {
        float scaled = g[j] * factor;
        m[j] = fmaf(p.beta1, m[j], (1.0f - p.beta1) * scaled);
        v[j] = fmaf(p.beta2, v[j], (1.0f - p.beta2) * scaled * scaled);
        float step = m[j] * inverse1 / (sqrtf(v[j] * inverse2) + p.eps);
        w[j] -= rate * fmaf(p.decay, w[j], step);
    }
    store_some(static_cast<float *>(p.next_master) + i, w, left);
    store_some(static_cast<float *>(p.next_first) + i, m, left);
    store_some(static_cast<float *>(p.next_second) + i, v, left);
    store_some(static_cast<U *>(p.weight) + i, w, left);
}
