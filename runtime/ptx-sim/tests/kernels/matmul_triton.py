"""out = x · wᵀ in bfloat16 with float32 sums, as Triton pipelines it."""

import triton
import triton.language as tl


@triton.jit
def matmul_pipelined(x, w, out, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    rows = tl.program_id(1) * BM + tl.arange(0, BM)
    columns = tl.program_id(0) * BN + tl.arange(0, BN)
    inner = tl.arange(0, BK)
    sums = tl.zeros((BM, BN), dtype=tl.float32)
    for k in range(0, K, BK):
        a = tl.load(x + rows[:, None] * K + (k + inner)[None, :], mask=rows[:, None] < M, other=0.0)
        b = tl.load(w + columns[None, :] * K + (k + inner)[:, None], mask=columns[None, :] < N, other=0.0)
        sums = tl.dot(a, b, sums)
    tl.store(out + rows[:, None] * N + columns[None, :], sums, mask=(rows[:, None] < M) & (columns[None, :] < N))
