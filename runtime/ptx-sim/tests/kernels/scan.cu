// Inclusive prefix sums of 64-bit integers with a decoupled look-back: each block waits for the one before it.
extern "C" __global__ void scan(const int* x, long long* out, long long* sums, int* ready, int n) {
    extern __shared__ long long tile[];
    int t = threadIdx.x, i = blockIdx.x * blockDim.x + t;
    tile[t] = i < n ? (long long)x[i] : 0;
    __syncthreads();
    for (int d = 1; d < blockDim.x; d *= 2) {
        long long add = t >= d ? tile[t - d] : 0;
        __syncthreads();
        tile[t] += add;
        __syncthreads();
    }
    __shared__ long long before;
    if (t == 0) {
        long long prior = 0;
        if (blockIdx.x > 0) {
            while (*(volatile int*)&ready[blockIdx.x - 1] == 0) {}
            __threadfence();
            prior = *(volatile long long*)&sums[blockIdx.x - 1];
        }
        before = prior;
        sums[blockIdx.x] = prior + tile[blockDim.x - 1];
        __threadfence();
        *(volatile int*)&ready[blockIdx.x] = 1;
    }
    __syncthreads();
    if (i < n) out[i] = before + tile[t];
}
