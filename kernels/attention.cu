// Computes:         y = softmax(q · kᵀ / √head_dim) · v of each head, without ever holding the scores in memory.
// Shapes and layout: q [B,S,..], k, v [B,T,..] as rows of `pitch` values with heads side by side; y [B,S,heads·head_dim].
// Work split:       one block per QUERIES queries of a head. attention_tensor: each warp has 16·PIECES queries and all of head_dim.
//                   attention_wide: warps share the scores of the block and then each has a slice of head_dim.
//                   attention_plain: each warp has 4 queries.
// Shared memory:    q; STAGES stages of k and v (attention_wide, attention_plain: one buffer for both by turns); afterwards y on its
//                   way to 16-byte stores. attention_wide: scores as f32 and as T.
// Numerics:         scores, softmax and sums in f32, the running maximum in units of log 2 (ex2.approx, 2^-22), up to 8 behind in
//                   attention_tensor; probabilities are rounded to T for the second product; one rounding at the store.
// Specialised by:   T, HEAD (head_dim rounded up to 16; attention_plain: to 4), KEYS per step, PIECES or WARPS, STAGES, CAUSAL,
//                   ALIGNED (head_dim and every pitch and first column are multiples of 8).
// Entries:          attention_tensor (head_dim up to 256), attention_wide (up to 512), attention_plain (f32).
// Gradient:         attention_grad.cu
// Sources:          Dao 2023, "FlashAttention-2"; Milakov and Gimelshein 2018, "Online normalizer calculation for softmax".
#include "params.cuh"
#include "head_rows.cuh"
#include "softmax_rows.cuh"

__forceinline__ HeadRows<const T> queries_of(const AttentionParams &p) { return head_rows<const T>(p.q, p.q_pitch, p.queries, p.head_dim); }
__forceinline__ HeadRows<const T> keys_of(const AttentionParams &p) { return head_rows<const T>(p.k, p.kv_pitch, p.keys, p.head_dim); }
__forceinline__ HeadRows<const T> values_of(const AttentionParams &p) { return head_rows<const T>(p.v, p.kv_pitch, p.keys, p.head_dim); }
__forceinline__ HeadRows<T> outputs_of(const AttentionParams &p) { return head_rows<T>(p.y, p.heads * p.head_dim, p.queries, p.head_dim); }

/// Keys that the queries before `end` see.
__forceinline__ u32 keys_before(const AttentionParams &p, u32 end) { return CAUSAL ? min(p.keys, end) : p.keys; }

__forceinline__ bool sees(const AttentionParams &p, u32 query, u32 key) { return key < p.keys && (!CAUSAL || key <= query); }

/// log of the sum of exponentials of a row's scores, for the gradient.
__forceinline__ void store_log_sum(const AttentionParams &p, u32 row, const RowState &state) {
    float *log_sum = p.log_sum;
    if (log_sum && row < p.queries) log_sum[(u64(blockIdx.z) * p.heads + blockIdx.y) * p.queries + row] = (state.top + log2f(state.total)) * 0.6931471805599453f;
}

#if defined(PIECES)
#include "attention_tensor.cuh"
#elif defined(PLAIN)
#include "attention_plain.cuh"
#else
#include "attention_wide.cuh"
#endif
