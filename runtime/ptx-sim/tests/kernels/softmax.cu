// Softmax of each row, one block a row, in float32 with bfloat16 in and out.
#include <cuda_bf16.h>
#include <math_constants.h>

extern "C" __global__ void softmax(const __nv_bfloat16* x, __nv_bfloat16* out, int columns) {
    __shared__ float slots[33];
    const __nv_bfloat16* row = x + (size_t)blockIdx.x * columns;
    float most = -CUDART_INF_F;
    for (int i = threadIdx.x; i < columns; i += blockDim.x) most = fmaxf(most, __bfloat162float(row[i]));
    for (int d = 16; d > 0; d /= 2) most = fmaxf(most, __shfl_down_sync(0xffffffffu, most, d));
    if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = most;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int i = 1; i < blockDim.x / 32; ++i) most = fmaxf(most, slots[i]);
        slots[32] = most;
    }
    __syncthreads();
    most = slots[32];
    float sum = 0.0f;
    for (int i = threadIdx.x; i < columns; i += blockDim.x) sum += expf(__bfloat162float(row[i]) - most);
    for (int d = 16; d > 0; d /= 2) sum += __shfl_down_sync(0xffffffffu, sum, d);
    __syncthreads();
    if (threadIdx.x % 32 == 0) slots[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int i = 1; i < blockDim.x / 32; ++i) sum += slots[i];
        slots[32] = sum;
    }
    __syncthreads();
    sum = slots[32];
    for (int i = threadIdx.x; i < columns; i += blockDim.x)
        out[(size_t)blockIdx.x * columns + i] = __float2bfloat16(expf(__bfloat162float(row[i]) - most) / sum);
}
