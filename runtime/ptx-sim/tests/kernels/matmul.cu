// out = x · wᵀ in bfloat16 with float32 sums: cp.async into two buffers, ldmatrix, mma.m16n8k16. A block of four warps makes 64 x 64.
#include <cuda_bf16.h>

__device__ unsigned shared_address(const void* p) { return (unsigned)__cvta_generic_to_shared(p); }

__device__ void copy16(void* to, const void* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from));
}

__device__ void load4(unsigned (&r)[4], const void* p) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(p)));
}

__device__ void mma(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 32 columns are 64 bytes, four chunks of 16; a chunk's place is turned by its row so that ldmatrix meets no bank twice.
__device__ int place(int row, int chunk) { return row * 32 + ((chunk ^ (row >> 1) & 3)) * 8; }

extern "C" __global__ void __launch_bounds__(128) matmul(const __nv_bfloat16* x, const __nv_bfloat16* w, float* out, int n, int k) {
    __shared__ __align__(128) __nv_bfloat16 xs[2][64 * 32], ws[2][64 * 32];
    int t = threadIdx.x, lane = t % 32, warp = t / 32;
    int m0 = blockIdx.y * 64, n0 = blockIdx.x * 64;
    float c[8][4] = {};
    auto fetch = [&](int step) {
        for (int i = t; i < 256; i += 128) {
            int row = i / 4, chunk = i % 4;
            copy16(&xs[step % 2][place(row, chunk)], x + (size_t)(m0 + row) * k + step * 32 + chunk * 8);
            copy16(&ws[step % 2][place(row, chunk)], w + (size_t)(n0 + row) * k + step * 32 + chunk * 8);
        }
        asm volatile("cp.async.commit_group;");
    };
    fetch(0);
    for (int step = 0; step < k / 32; ++step) {
        if (step + 1 < k / 32) {
            fetch(step + 1);
            asm volatile("cp.async.wait_group 1;" ::: "memory");
        } else {
            asm volatile("cp.async.wait_group 0;" ::: "memory");
        }
        __syncthreads();
        for (int half = 0; half < 2; ++half) {
            unsigned a[4];
            load4(a, &xs[step % 2][place(warp * 16 + lane % 16, half * 2 + lane / 16)]);
            for (int j = 0; j < 4; ++j) {
                unsigned b[4];
                load4(b, &ws[step % 2][place(j * 16 + lane % 8 + lane / 16 * 8, half * 2 + lane / 8 % 2)]);
                mma(c[2 * j], a, b[0], b[1]);
                mma(c[2 * j + 1], a, b[2], b[3]);
            }
        }
        __syncthreads();
    }
    for (int j = 0; j < 8; ++j) {
        float* at = out + (size_t)(m0 + warp * 16 + lane / 4) * n + n0 + j * 8 + lane % 4 * 2;
        *(float2*)at = make_float2(c[j][0], c[j][1]);
        *(float2*)(at + 8 * n) = make_float2(c[j][2], c[j][3]);
    }
}
