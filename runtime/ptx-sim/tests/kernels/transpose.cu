// A transpose through a tile of shared memory, with and without the padding that keeps its columns off one bank.
template <int PAD> __device__ void body(const float* x, float* out, int rows, int columns) {
    __shared__ float tile[32][32 + PAD];
    int c = blockIdx.x * 32 + threadIdx.x, r = blockIdx.y * 32 + threadIdx.y;
    for (int j = 0; j < 32; j += 8)
        if (c < columns && r + j < rows) tile[threadIdx.y + j][threadIdx.x] = x[(r + j) * columns + c];
    __syncthreads();
    c = blockIdx.y * 32 + threadIdx.x, r = blockIdx.x * 32 + threadIdx.y;
    for (int j = 0; j < 32; j += 8)
        if (c < rows && r + j < columns) out[(r + j) * rows + c] = tile[threadIdx.x][threadIdx.y + j];
}

extern "C" __global__ void transpose(const float* x, float* out, int rows, int columns) { body<1>(x, out, rows, columns); }
extern "C" __global__ void transpose_conflicts(const float* x, float* out, int rows, int columns) { body<0>(x, out, rows, columns); }
