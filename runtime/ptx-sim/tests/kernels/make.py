"""Makes what lies here from its sources: PTX, inputs, expected outputs.

Needs numpy, triton, nvidia-cuda-nvrtc, nvidia-cuda-runtime, nvidia-cuda-crt and nvidia-cuda-cccl of PyPI; no GPU.
What it makes is committed, so the tests need none of it.
"""

import ctypes, glob, os, pathlib, sys

import numpy as np

HERE = pathlib.Path(__file__).parent


def nvrtc_ptx(path):
    import nvidia

    roots = [pathlib.Path(p) for p in nvidia.__path__]
    find = lambda pattern: [p for r in roots for p in glob.glob(str(r / "**" / pattern), recursive=True)]
    lib = ctypes.CDLL(find("libnvrtc.so.1*")[0])
    include = {os.path.dirname(p) for p in find("cuda_bf16.h") + find("host_config.h")[:1]}
    include |= {os.path.dirname(d) for d in include} | {p for p in find("cccl") if os.path.isdir(p)}
    options = [b"--gpu-architecture=compute_80", b"--std=c++17", b"--device-as-default-execution-space"]
    options += [f"-I{d}".encode() for d in sorted(include)]
    program = ctypes.c_void_p()
    source = path.read_bytes()
    assert lib.nvrtcCreateProgram(ctypes.byref(program), source, path.name.encode(), 0, None, None) == 0
    status = lib.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    size = ctypes.c_size_t()
    lib.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    lib.nvrtcGetProgramLog(program, log)
    if status:
        sys.exit(log.value.decode())
    lib.nvrtcGetPTXSize(program, ctypes.byref(size))
    ptx = ctypes.create_string_buffer(size.value)
    lib.nvrtcGetPTX(program, ptx)
    return ptx.value.decode()


def triton_ptx():
    import shutil, tempfile

    os.environ["TRITON_ALWAYS_COMPILE"] = "1"
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    # Debug sections hold the path of the source: one that says nothing of this machine.
    neutral = pathlib.Path(tempfile.gettempdir()) / "kernels"
    neutral.mkdir(exist_ok=True)
    shutil.copy(HERE / "matmul_triton.py", neutral)
    sys.path.insert(0, str(neutral))
    import matmul_triton

    types = {"x": "*bf16", "w": "*bf16", "out": "*fp32", "M": "i32", "N": "i32", "K": "i32"}
    constants = {"BM": 64, "BN": 64, "BK": 32}
    signature = types | {name: "constexpr" for name in constants}
    attrs = {(i,): [["tt.divisibility", 16]] for i in range(6)}
    source = ASTSource(matmul_triton.matmul_pipelined, signature, constants, attrs)
    kernel = triton.compile(source, target=GPUTarget("cuda", 80, 32), options={"num_warps": 4, "num_stages": 3})
    return kernel.asm["ptx"]


# Inputs, as tests/kernels.rs makes them too.


def noise(count, seed):
    """Bits without order: the same numbers on every machine."""
    v = np.arange(count, dtype=np.uint32) * np.uint32(2654435761) + np.uint32(seed * 40503)
    v ^= v >> np.uint32(15)
    v *= np.uint32(2246822519)
    v ^= v >> np.uint32(13)
    v *= np.uint32(3266489917)
    return v ^ v >> np.uint32(16)


def floats(count, seed, scale):
    return ((noise(count, seed) >> np.uint32(8)).astype(np.float32) / np.float32(1 << 24) - np.float32(0.5)) * np.float32(scale)


def to_bf16(v):
    """The nearest bfloat16, as a float64."""
    m, e = np.frexp(np.asarray(v, dtype=np.float64))
    return np.ldexp(np.rint(m * 256) / 256, e)


def bf16_bits(v):
    return (to_bf16(v).astype(np.float32).view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def expected():
    x = floats(5000, 1, 2).astype(np.float64)
    yield "reduce", np.array([x.sum()], dtype=np.float64)

    x = noise(600, 2).view(np.int32)
    yield "scan", np.cumsum(x.astype(np.int64))

    x = floats(70 * 45, 3, 2).reshape(70, 45)
    yield "transpose", np.ascontiguousarray(x.T)

    x = (noise(10000, 4) >> np.uint32(24)).astype(np.uint8) >> np.uint8(1)
    yield "histogram", np.bincount(x, minlength=256).astype(np.uint32)

    x = to_bf16(floats(4 * 333, 5, 16)).reshape(4, 333)
    e = np.exp(x - x.max(axis=1, keepdims=True))
    yield "softmax", (e / e.sum(axis=1, keepdims=True)).astype(np.float32)

    x = to_bf16(floats(128 * 96, 6, 2)).reshape(128, 96)
    w = to_bf16(floats(64 * 96, 7, 2)).reshape(64, 96)
    yield "matmul", (x @ w.T).astype(np.float32)

    yield "integers", np.array([integers(i, int(a), int(b)) for i, (a, b) in enumerate(zip(noise(64, 8), noise(64, 9)))], dtype=np.uint64)
    v = floats(64, 10, 40)
    d = floats(64, 11, 40).astype(np.float64) * 1.000000001
    single, double = float_columns(v, d)
    yield "floats", single
    yield "doubles", double
    h = v.astype(np.float16), (v * np.float32(0.5)).astype(np.float16)
    h = np.stack(h, axis=1).astype(np.float64)
    quarter = (h + 0.25).astype(np.float16).astype(np.float64)
    yield "halves", (h * h + quarter).astype(np.float16)
    g = np.stack([to_bf16(v), to_bf16(v * np.float32(0.5))], axis=1)
    yield "brains", bf16_bits(g * g + to_bf16(g * g))


def integers(i, a, b):
    """The kernel `integers` for one thread, in Python's unbounded integers; what lanes share is added by name."""
    M32, M64 = (1 << 32) - 1, (1 << 64) - 1
    signed = lambda v, bits: (v & (1 << bits) - 1) - ((v >> bits - 1 & 1) << bits)
    sa, sb = signed(a, 32), signed(b, 32)
    cut = lambda p, q: abs(p) // abs(q) * (1 if (p < 0) == (q < 0) else -1)
    left = lambda p, q: p - q * cut(p, q)
    reverse = lambda v, bits: int(format(v, f"0{bits}b")[::-1], 2)
    wide = a << 32 | b
    swide = signed(wide, 64)
    odd = b | 1
    sodd = signed(odd, 32)
    primes = [2, 3, 5, 7, 11, 13, 17, 19]
    lanes = range(i // 32 * 32, i // 32 * 32 + 32)
    A, B = noise(64, 8), noise(64, 9)
    byte = lambda v, k: v >> 8 * k & 255
    values = [
        bin(a).count("1"), 32 - a.bit_length(), reverse(a, 32), (a & -a).bit_length(),
        sum(byte(a | b << 32, 0x3614 >> 4 * k & 7) << 8 * k for k in range(4)), ((b << 32 | a) << (a & 31) >> 32) & M32,
        a * b >> 32, (sa * sb >> 32) & M32, a // odd, a % odd, cut(sa, sodd), left(sa, sodd),
        wide // (a | 1), wide % (a | 1), cut(swide, sodd), left(swide, sodd), wide * (~wide & M64) >> 64, bin(wide).count("1"), 64 - wide.bit_length(), reverse(wide, 64),
        max(sa, sb), min(a, b), abs(sb), wide >> (a & 63), swide >> (b & 63), wide << (a & 63), a & b | ~a & M32 & i, signed(a, 16), signed(b, 8), a >> 13 & 0x7F, primes[a & 7],
        swide * 12345 + -678901234567, sum(byte(a, k) * byte(b, k) for k in range(4)) + 7 & M32, abs(sa - sb) + 5 & M32,
        sum(int(A[j]) for j in lanes) & M32, sum(1 << j % 32 for j in lanes if A[j] & 3 == a & 3), sum(1 << j % 32 for j in lanes if 0 < int(B[j]) < 1 << 31),
        (a == b) + 2 * (sa < sb) + 4 * (a < b), M32,
    ]
    h = 1469598103934665603
    # C extends what is int, and not what is unsigned.
    for v in values:
        h = ((h ^ v & M64) * 1099511628211) & M64
    return h


def float_columns(v, d):
    f = np.float32
    w = v.astype(np.float64)
    down = lambda x: np.where(x.astype(f).astype(np.float64) > x, np.nextafter(x.astype(f), f(-np.inf)), x.astype(f))
    up = lambda x: -down(-x)
    zero = lambda x: np.where(x > 0, down(x), up(x))
    a = np.abs(w)
    import math

    columns = [
        np.sin(w), np.cos(w), np.log(a), np.exp(w * 0.01), np.sqrt(a), 1 / np.sqrt(a), 1 / w, w / 3,
        np.tanh(w * 0.01), a ** float(f(0.3)), np.floor(w), np.ceil(w), np.trunc(w), np.rint(w), np.fmod(w, float(f(0.7))), np.array([math.erf(x * 0.1) for x in w]),
        zero(w + float(f(1e-3))), up(w * float(f(1.1))), down(w / float(f(3.3))), zero(w * w - float(f(0.3))), up(np.sqrt(a)), np.trunc(w), np.ceil(a), np.trunc((v * f(1e6)).astype(np.float64)),
        down(d), np.log1p(a), np.cbrt(w), np.arctan2(w, 2), w * 1.5 + float(f(0.1)), np.copysign(1, w), np.minimum(w, 0), np.sin((v * f(1e6)).astype(np.float64)),
    ]
    e = np.abs(d)
    doubles = [d / 3, np.sqrt(e), np.exp(d * 0.01), np.sin(d), d * d + 1, np.log(e), np.trunc(e), np.floor(d)]
    return np.stack(columns, axis=1).astype(f), np.stack(doubles, axis=1)


if __name__ == "__main__":
    only_data = sys.argv[1:] == ["data"]
    if not only_data:
        for source in sorted(HERE.glob("*.cu")):
            source.with_suffix(".ptx").write_text(nvrtc_ptx(source))
        (HERE / "matmul_triton.ptx").write_text(triton_ptx())
    for name, values in expected():
        (HERE / f"{name}.expected").write_bytes(values.tobytes())
