// What nvcc makes of less usual C: 64-bit division, bit tricks, libdevice, float64, packed halves, functions that are called.
#include <cuda_fp16.h>
#include <cuda_bf16.h>

__constant__ unsigned primes[8] = {2, 3, 5, 7, 11, 13, 17, 19};
struct Pair { int scale; long long offset; };

__device__ __noinline__ long long mix(long long a, Pair p) { return a * p.scale + p.offset; }

extern "C" __global__ void integers(const unsigned* x, const int* y, unsigned long long* out, Pair pair) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    unsigned a = x[i];
    int b = y[i];
    unsigned long long h = 1469598103934665603ull;
    auto put = [&](unsigned long long v) { h = (h ^ v) * 1099511628211ull; };
    put(__popc(a)); put(__clz(a)); put(__brev(a)); put(__ffs(a)); put(__byte_perm(a, b, 0x3614)); put(__funnelshift_l(a, b, a & 31));
    put(__umulhi(a, b)); put((unsigned)__mulhi((int)a, b)); put(a / (unsigned)(b | 1)); put(a % (unsigned)(b | 1)); put((int)a / (b | 1)); put((int)a % (b | 1));
    unsigned long long wide = (unsigned long long)a << 32 | (unsigned)b;
    put(wide / (a | 1)); put(wide % (a | 1)); put((long long)wide / (b | 1)); put((long long)wide % (b | 1)); put(__umul64hi(wide, ~wide)); put(__popcll(wide)); put(__clzll(wide)); put(__brevll(wide));
    put(max((int)a, b)); put(min(a, (unsigned)b)); put(abs(b)); put(wide >> (a & 63)); put((long long)wide >> (b & 63)); put(wide << (a & 63)); put((a & b) | (~a & (unsigned)i)); put((short)a); put((signed char)b); put(a >> 13 & 0x7f); put(primes[a & 7]);
    put(mix((long long)wide, pair)); put(__dp4a(a, (unsigned)b, 7u)); put(__sad((int)a, b, 5u)); put(__reduce_add_sync(0xffffffffu, a)); put(__match_any_sync(0xffffffffu, a & 3)); put(__ballot_sync(0xffffffffu, b > 0));
    put((a == b) + 2 * ((int)a < b) + 4 * (a < (unsigned)b)); put(__activemask());
    out[i] = h;
}

extern "C" __global__ void floats(const float* x, const double* d, float* out, double* out64, __half2* out16, __nv_bfloat162* outb) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    float v = x[i];
    float* o = out + 32 * i;
    o[0] = sinf(v); o[1] = cosf(v); o[2] = logf(fabsf(v)); o[3] = expf(v * 0.01f); o[4] = sqrtf(fabsf(v)); o[5] = rsqrtf(fabsf(v)); o[6] = 1.0f / v; o[7] = v / 3.0f;
    o[8] = tanhf(v * 0.01f); o[9] = powf(fabsf(v), 0.3f); o[10] = floorf(v); o[11] = ceilf(v); o[12] = truncf(v); o[13] = rintf(v); o[14] = fmodf(v, 0.7f); o[15] = erff(v * 0.1f);
    o[16] = __fadd_rz(v, 1e-3f); o[17] = __fmul_ru(v, 1.1f); o[18] = __fdiv_rd(v, 3.3f); o[19] = __fmaf_rz(v, v, -0.3f); o[20] = __fsqrt_ru(fabsf(v)); o[21] = (float)(int)v; o[22] = (float)__float2uint_ru(fabsf(v)); o[23] = (float)(long long)(v * 1e6f);
    o[24] = __double2float_rd(d[i]); o[25] = log1pf(fabsf(v)); o[26] = cbrtf(v); o[27] = atan2f(v, 2.0f); o[28] = fmaf(v, 1.5f, 0.1f); o[29] = copysignf(1.0f, v); o[30] = fminf(v, 0.0f); o[31] = sinf(v * 1e6f);
    double e = d[i];
    double* q = out64 + 8 * i;
    q[0] = e / 3.0; q[1] = sqrt(fabs(e)); q[2] = exp(e * 0.01); q[3] = sin(e); q[4] = fma(e, e, 1.0); q[5] = log(fabs(e)); q[6] = (double)(unsigned long long)fabs(e); q[7] = floor(e);
    __half2 h = __floats2half2_rn(v, v * 0.5f);
    out16[i] = __hfma2(h, h, __hadd2(h, __float2half2_rn(0.25f)));
    __nv_bfloat162 g = __floats2bfloat162_rn(v, v * 0.5f);
    outb[i] = __hfma2(g, g, __hmul2(g, g));
}
