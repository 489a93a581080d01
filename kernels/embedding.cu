// Computes          y[b,t] = (embeds[b,i] where t = slots[b,i], else table[ids[b,t]]) + positions[t]
// Shapes and layout ids [B,T] i32, table [V,C], positions [P,C], y [B,T,C] of T; slots [B,k] i32, embeds [B,k,C] f32; contiguous
// Work split        one thread per V values of y; the last slot that names a token wins
// Shared memory     none
// Numerics          f32, rounded once; ids outside the table give NaN
// Specialised by    T, V (values per access, which divides C)
// Entries           embedding_forward
// Gradient          embedding_grad.cu
// Sources           Gal et al. 2022, "Textual Inversion" (pseudo-words in place of tokens); Chen et al. 2023, "DreamIdentity"
#include "params.cuh"
#include "types.cuh"

extern "C" __global__ void __launch_bounds__(256) embedding_forward(const __grid_constant__ EmbeddingParams p) {
    const i32 *ids = p.ids, *slots = p.slots;
    const T *table = p.table, *positions = p.positions;
    const float *embeds = p.embeds;
    T *y = p.y;
    u32 i = (blockIdx.x * blockDim.x + threadIdx.x) * V;
    if (i >= p.images * p.tokens * p.channels) return;
    u32 row = i / p.channels, column = i - row * p.channels;
    u32 image = row / p.tokens, token = row - image * p.tokens;
    float word[V], position[V];
    i32 slot = -1;
    for (u32 s = 0; s < p.slot_count; s++) {
        if (slots[image * p.slot_count + s] == i32(token)) slot = i32(image * p.slot_count + s);
    }
    i32 id = ids[row];
    if (slot >= 0) {
        load(word, embeds + u64(slot) * p.channels + column);
    } else if (id >= 0 && id < i32(p.vocabulary)) {
        load(word, table + u64(id) * p.channels + column);
    } else {
#pragma unroll
        for (int j = 0; j < V; j++) word[j] = __int_as_float(0x7fc00000);
    }
    load(position, positions + u64(token) * p.channels + column);
#pragma unroll
    for (int j = 0; j < V; j++) word[j] += position[j];
    store(y + i, word);
}
