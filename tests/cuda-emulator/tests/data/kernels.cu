// Kernels for the emulator's tests, compiled once with NVRTC 12.9 for compute_80 (--generate-line-info) into kernels.ptx.
typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned long long u64;

__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// C[M,N] = A[M,K] B[N,K]^T, bf16 in, f32 out; tiles of 64 x 64 x 32, 128 threads as 2 x 2 warps, two stages of cp.async, rows of 64 bytes
// whose 16-byte chunks are swizzled by the row. Any M, N; K a multiple of 32.
struct GemmParams { const u16* a; const u16* b; float* c; int m, n, k; };

extern "C" __global__ void __launch_bounds__(128) gemm(const __grid_constant__ GemmParams p) {
    extern __shared__ __align__(128) u16 tiles[];
    const int t = threadIdx.x, lane = t & 31, warp = t >> 5;
    const int row0 = blockIdx.y * 64, col0 = blockIdx.x * 64;
    auto place = [](int row, int chunk) { return row * 32 + ((chunk ^ (row >> 1)) & 3) * 8; };
    auto load = [&](int stage, int k0) {
        for (int i = t; i < 256; i += 128) {
            int row = i >> 2, chunk = i & 3;
            int ok = row0 + row < p.m ? 16 : 0;
            const u16* from = p.a + (u64)(ok ? row0 + row : 0) * p.k + k0 + chunk * 8;
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(tiles + stage * 4096 + place(row, chunk))), "l"(from), "r"(ok));
            ok = col0 + row < p.n ? 16 : 0;
            from = p.b + (u64)(ok ? col0 + row : 0) * p.k + k0 + chunk * 8;
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(tiles + stage * 4096 + 2048 + place(row, chunk))), "l"(from), "r"(ok));
        }
        asm volatile("cp.async.commit_group;");
    };
    float acc[2][4][4] = {};
    const int wr = (warp >> 1) * 32, wc = (warp & 1) * 32;
    load(0, 0);
    for (int k0 = 0, stage = 0; k0 < p.k; k0 += 32, stage ^= 1) {
        if (k0 + 32 < p.k) {
            load(stage ^ 1, k0 + 32);
            asm volatile("cp.async.wait_group 1;");
        } else {
            asm volatile("cp.async.wait_group 0;");
        }
        __syncthreads();
        const u16* ta = tiles + stage * 4096;
        const u16* tb = ta + 2048;
#pragma unroll
        for (int kk = 0; kk < 2; kk++) {
            u32 a[2][4], b[4][2];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                u32 at = shared_address(ta + place(wr + i * 16 + (lane & 15), kk * 2 + (lane >> 4)));
                asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(a[i][0]), "=r"(a[i][1]), "=r"(a[i][2]), "=r"(a[i][3]) : "r"(at));
            }
#pragma unroll
            for (int j = 0; j < 4; j += 2) {
                u32 at = shared_address(tb + place(wc + j * 8 + (lane & 7) + (lane >> 4) * 8, kk * 2 + (lane >> 3 & 1)));
                asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(b[j][0]), "=r"(b[j][1]), "=r"(b[j + 1][0]), "=r"(b[j + 1][1]) : "r"(at));
            }
#pragma unroll
            for (int i = 0; i < 2; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                                 : "+f"(acc[i][j][0]), "+f"(acc[i][j][1]), "+f"(acc[i][j][2]), "+f"(acc[i][j][3])
                                 : "r"(a[i][0]), "r"(a[i][1]), "r"(a[i][2]), "r"(a[i][3]), "r"(b[j][0]), "r"(b[j][1]));
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                int row = row0 + wr + i * 16 + h * 8 + (lane >> 2), col = col0 + wc + j * 8 + (lane & 3) * 2;
                if (row < p.m && col < p.n) p.c[(u64)row * p.n + col] = acc[i][j][h * 2];
                if (row < p.m && col + 1 < p.n) p.c[(u64)row * p.n + col + 1] = acc[i][j][h * 2 + 1];
            }
}

// Functions of the CUDA math library, one result each: y[i * 16 + f] = f(x[i]).
__constant__ float scale[2] = {0.5f, 2.0f};
__device__ __noinline__ float cube(float x) { return x * x * x; }

extern "C" __global__ void functions(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float v = x[i];
    float* out = y + i * 16;
    out[0] = expf(v); out[1] = logf(fabsf(v)); out[2] = sinf(v); out[3] = cosf(v * 1000.f);
    out[4] = tanhf(v); out[5] = erff(v); out[6] = sqrtf(fabsf(v)); out[7] = 1.0f / v;
    out[8] = powf(fabsf(v), 1.5f); out[9] = v / 3.0f; out[10] = cube(v) * scale[0]; out[11] = (float)exp((double)v);
    out[12] = (float)((long long)(v * 1000) / 7); out[13] = (float)((u32)(i + 5) % 7u); out[14] = rintf(v); out[15] = fmodf(v, 0.3f);
}

// Softmax of rows of n, a block each: reductions by shuffles and shared memory.
extern "C" __global__ void __launch_bounds__(256) softmax(const float* x, float* y, int n) {
    __shared__ float partial[8];
    const float* row = x + (u64)blockIdx.x * n;
    float top = __int_as_float(0xff800000);
    for (int i = threadIdx.x; i < n; i += blockDim.x) top = fmaxf(top, row[i]);
    for (int o = 16; o; o >>= 1) top = fmaxf(top, __shfl_xor_sync(~0u, top, o));
    if ((threadIdx.x & 31) == 0) partial[threadIdx.x >> 5] = top;
    __syncthreads();
    for (int i = 0; i < blockDim.x / 32; i++) top = fmaxf(top, partial[i]);
    __syncthreads();
    float sum = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += __expf(row[i] - top);
    for (int o = 16; o; o >>= 1) sum += __shfl_xor_sync(~0u, sum, o);
    if ((threadIdx.x & 31) == 0) partial[threadIdx.x >> 5] = sum;
    __syncthreads();
    sum = 0;
    for (int i = 0; i < blockDim.x / 32; i++) sum += partial[i];
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[(u64)blockIdx.x * n + i] = __fdividef(__expf(row[i] - top), sum);
}

// Philox 4x32-10, as any of its users computes it.
extern "C" __global__ void philox(u32* y, u64 seed, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    u32 c0 = i, c1 = 0, c2 = 0, c3 = 0, k0 = (u32)seed, k1 = (u32)(seed >> 32);
    for (int r = 0; r < 10; r++) {
        u64 p0 = (u64)0xD2511F53u * c0, p1 = (u64)0xCD9E8D57u * c2;
        u32 n0 = (u32)(p1 >> 32) ^ c1 ^ k0, n2 = (u32)(p0 >> 32) ^ c3 ^ k1;
        c1 = (u32)p1; c3 = (u32)p0; c0 = n0; c2 = n2;
        k0 += 0x9E3779B9u; k1 += 0xBB67AE85u;
    }
    uint4 v = {c0, c1, c2, c3};
    ((uint4*)y)[i] = v;
}
