// Computes          y[b,0] = class + positions[0],  y[b,1+p] = patches[b,p] + positions[1+p]
// Shapes and layout patches [B,P,C], y [B,1+P,C] of T; class [C], positions [1+P,C] f32; contiguous
// Work split        a thread keeps V values of the positions and adds them for every image
// Shared memory     none
// Numerics          f32, rounded once
// Specialised by    T, V (values per access, which divides C)
// Entries           prepend_token_forward
// Gradient          a slice for the patches, sums over the images for the parameters
// Sources           Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words"
#include "params.cuh"
#include "types.cuh"

extern "C" __global__ void __launch_bounds__(256) prepend_token_forward(const __grid_constant__ PrependTokenParams p) {
    const T *patches = p.patches;
    const float *token = p.token, *positions = p.positions;
    T *y = p.y;
    u32 i = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    u32 sequence = p.tokens * p.channels;
    if (i >= sequence) return;
    float position[V], v[V];
    load(position, positions + i);
    for (u32 b = 0; b < p.images; b++) {
        if (i < p.channels) {
            load(v, token + i);
        } else {
            load(v, patches + u64(b) * (sequence - p.channels) + (i - p.channels));
        }
#pragma unroll
        for (int j = 0; j < V; j++) v[j] += position[j];
        store(y + u64(b) * sequence + i, v);
    }
}
