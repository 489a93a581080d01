// The kernels of the driver's tests. `driver.ptx` is what NVRTC 12.9 makes of them with
// --gpu-architecture=compute_80 --std=c++17 -default-device; an ignored test compiles them anew.

struct Axpy {
    float *y;
    const float *x;
    float a;
    int n;
};

__device__ float factor = 2.0f;

// y += a * x
extern "C" __global__ void __launch_bounds__(128) axpy(const __grid_constant__ Axpy p) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < p.n) p.y[i] += p.a * p.x[i];
}

// y *= factor
extern "C" __global__ void __launch_bounds__(128) scale(float *y, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] *= factor;
}

// One store wherever the caller says.
extern "C" __global__ void poke(float *y, long long index) {
    y[index] = 1.0f;
}

// Block sums by way of dynamic shared memory.
extern "C" __global__ void __launch_bounds__(256) block_sum(float *sums, const float *x) {
    extern __shared__ float part[];
    part[threadIdx.x] = x[blockIdx.x * blockDim.x + threadIdx.x];
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
    }
    if (threadIdx.x == 0) sums[blockIdx.x] = part[0];
}
