// Computes:         the gradients of q, k and v of y = p · v, p = softmax(s), s = q · kᵀ / √head_dim, from dy:
//                   dv = pᵀ · dy, ds = p · (dy · vᵀ - delta) with delta = rowsum(y · dy), dq = ds · k / √head_dim, dk = dsᵀ · q / √head_dim.
// Shapes and layout: as attention.cu; dy like y; dq, dk, dv as q, k, v; log_sum (in units of log 2) and delta [B,heads,S] f32.
// Work split:       attention_grad_queries: one block per QUERIES queries walks over the keys, for dq and the queries' log_sum and delta.
//                   attention_grad_keys, afterwards: one block per KEYS keys walks over the queries. No sum has two owners.
//                   The plain entries give each warp one query or key.
// Shared memory:    the block's own rows of two tensors, STAGES stages of the other two; afterwards gradients on their way to 16-byte stores.
// Numerics:         scores and probabilities are computed again in f32, for dq against a running maximum as in attention.cu; p and ds enter
//                   the second products as two values of T each, exact to 2^-16 (bf16) or 2^-22 (f16): rows of ds add up to zero, so what
//                   all keys have in common cancels, and one rounding would bring it back. Sums f32; one rounding at the store. The plain
//                   entries are f32 throughout.
// Specialised by:   T, HEAD (head_dim rounded up to 16; plain: to 32), STAGE_ROWS (rows of a stage), STAGES, CAUSAL, ALIGNED (head_dim and every
//                   pitch and first column are multiples of 8), PLAIN.
// Entries:          attention_grad_queries, attention_grad_keys (bf16, f16, head_dim up to 128); attention_grad_queries_plain,
//                   attention_grad_keys_plain (any type, up to 512).
// Gradient:         none
// Sources:          Dao 2023, "FlashAttention-2", section 3.1.2, with the sum over keys and the sum over queries in kernels of their own.
#include "params.cuh"
#include "head_rows.cuh"
#include "softmax_rows.cuh"

__forceinline__ HeadRows<const T> queries_of(const AttentionGradParams &p, const T *q) { return head_rows<const T>(q, p.q_pitch, p.queries, p.head_dim); }
__forceinline__ HeadRows<const T> keys_of(const AttentionGradParams &p, const T *k) { return head_rows<const T>(k, p.kv_pitch, p.keys, p.head_dim); }
__forceinline__ HeadRows<const T> outputs_of(const AttentionGradParams &p, const T *y) { return head_rows<const T>(y, p.heads * p.head_dim, p.queries, p.head_dim); }

/// Where log_sum and delta of this head start.
__forceinline__ u64 first_row(const AttentionGradParams &p) { return (u64(blockIdx.z) * p.heads + blockIdx.y) * p.queries; }

__forceinline__ bool sees(const AttentionGradParams &p, u32 query, u32 key) { return query < p.queries && key < p.keys && (!CAUSAL || key <= query); }

#ifdef PLAIN
#include "attention_grad_plain.cuh"
#else
#include "attention_grad_tensor.cuh"
#endif
