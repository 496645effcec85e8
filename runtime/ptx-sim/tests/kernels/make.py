"""Makes what lies here from its sources: PTX, inputs, expected outputs.

Needs numpy, triton, nvidia-cuda-nvrtc, nvidia-cuda-runtime, nvidia-cuda-crt and nvidia-cuda-cccl of PyPI; no GPU.
What it makes is committed, so the tests need none of it.
"""

import ctypes, glob, os, pathlib, sys

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
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    import matmul_triton

    types = {"x": "*bf16", "w": "*bf16", "out": "*fp32", "M": "i32", "N": "i32", "K": "i32"}
    constants = {"BM": 64, "BN": 64, "BK": 32}
    signature = types | {name: "constexpr" for name in constants}
    attrs = {(i,): [["tt.divisibility", 16]] for i in range(6)}
    source = ASTSource(matmul_triton.matmul_pipelined, signature, constants, attrs)
    kernel = triton.compile(source, target=GPUTarget("cuda", 80, 32), options={"num_warps": 4, "num_stages": 3})
    print("triton: shared", kernel.metadata.shared, "warps", kernel.metadata.num_warps)
    return kernel.asm["ptx"]


if __name__ == "__main__":
    for source in sorted(HERE.glob("*.cu")):
        (HERE / source.name).with_suffix(".ptx").write_text(nvrtc_ptx(source))
    sys.path.insert(0, str(HERE))
    (HERE / "matmul_triton.ptx").write_text(triton_ptx())
