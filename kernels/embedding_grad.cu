// Computes          one gradient of an embedding from dy: of the pseudo-words (what stands at each slot), of the table (sums over the
//                   places of each token that no slot took), of the positions (sums over the batch)
// Shapes and layout dy [B,T,C] of T; ids [B,T], slots [B,k] i32; result f32: [B,k,C], [rows,C], [rows,C]; contiguous
// Work split        one thread per V values of the result, which gathers in the order of places: nothing is added by two threads
// Shared memory     none
// Numerics          f32
// Specialised by    T, V (values per access, which divides C)
// Entries           embedding_grad_words, embedding_grad_table, embedding_grad_positions
// Gradient          none
// Sources           as embedding.cu
#include "params.cuh"
#include "types.cuh"

/// The last slot of an image that names a token, or -1.
__forceinline__ i32 slot_at(const EmbeddingGradParams &p, u32 image, i32 token) {
    const i32 *slots = static_cast<const i32 *>(p.slots) + image * p.slot_count;
    i32 found = -1;
    for (u32 s = 0; s < p.slot_count; s++) found = slots[s] == token ? i32(s) : found;
    return found;
}

__forceinline__ void add_row(const EmbeddingGradParams &p, float (&sum)[V], u32 row, u32 c) {
    float v[V];
    load(v, static_cast<const T *>(p.dy) + u64(row) * p.channels + c);
#pragma unroll
    for (int j = 0; j < V; j++) sum[j] += v[j];
}

extern "C" __global__ void __launch_bounds__(256) embedding_grad_words(const __grid_constant__ EmbeddingGradParams p) {
    u32 i = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (i >= p.rows * p.channels) return;
    u32 row = i / p.channels, c = i - row * p.channels, image = row / p.slot_count;
    i32 token = static_cast<const i32 *>(p.slots)[row];
    float sum[V] = {};
    bool inside = token >= 0 && token < i32(p.tokens);
    // a later slot that names the same token took the place
    if (inside && slot_at(p, image, token) == i32(row - image * p.slot_count)) add_row(p, sum, image * p.tokens + u32(token), c);
    store(static_cast<float *>(p.grad) + i, sum);
}

extern "C" __global__ void __launch_bounds__(256) embedding_grad_table(const __grid_constant__ EmbeddingGradParams p) {
    const i32 *ids = p.ids;
    u32 i = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (i >= p.rows * p.channels) return;
    u32 row = i / p.channels, c = i - row * p.channels;
    float sum[V] = {};
    for (u32 place = 0; place < p.images * p.tokens; place++) {
        if (ids[place] != i32(row)) continue;
        u32 image = place / p.tokens;
        if (slot_at(p, image, i32(place - image * p.tokens)) < 0) add_row(p, sum, place, c);
    }
    store(static_cast<float *>(p.grad) + i, sum);
}

extern "C" __global__ void __launch_bounds__(256) embedding_grad_positions(const __grid_constant__ EmbeddingGradParams p) {
    u32 i = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (i >= p.rows * p.channels) return;
    u32 row = i / p.channels, c = i - row * p.channels;
    float sum[V] = {};
    for (u32 image = 0; row < p.tokens && image < p.images; image++) add_row(p, sum, image * p.tokens + row, c);
    store(static_cast<float *>(p.grad) + i, sum);
}
