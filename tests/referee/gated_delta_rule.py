"""The gated delta rule of fla-core, as Triton compiles it, against ours: both as PTX, both on ptx-sim, in float32.

    gated_delta_rule.py PTX_SIM Q35C CONFIG FOLDER

A prompt goes through `delta_rule` in chunks and some tokens after it through `delta_step`; fla-core's recurrent kernel
takes them all in one go. What they leave, outputs and state, must be the same but for rounding.
"""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import triton
from fla.ops.gated_delta_rule.fused_recurrent import fused_recurrent_gated_delta_rule_fwd_kernel as theirs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

PROMPT, DECODED = 70, 3
TOKENS = PROMPT + DECODED
# Sizes of Qwen3.5-0.8B.
HEADS, DK, DV, PANEL, LANES = 16, 128, 128, 16, 128
CHANNELS = 3 * HEADS * DK
COLUMNS = CHANNELS + HEADS * DV + 2 * HEADS
EPS = 1e-6
# As the artifact is compiled.
MAX_TOKENS, MAX_SEQS, MAX_PAGES, PAGE = 128, 1, 4, 64
BOUND = 2e-6

simulator, compiler, config, folder = sys.argv[1:]
folder = Path(folder)
folder.mkdir(parents=True, exist_ok=True)


def simulate(ptx, entry, grid, block, args, shared=0):
    """Run an entry; `args` are arrays that are read, `(name, array)` that are read and written, `(name, bytes)`, numbers."""
    words, results = [], {}
    for number, arg in enumerate(args):
        file = folder / f"arg{number}"
        if isinstance(arg, np.ndarray):
            arg.tofile(file)
            words.append(f"in={file}")
        elif isinstance(arg, str):
            words.append(arg)
        else:
            name, value = arg
            results[name] = folder / name
            if isinstance(value, np.ndarray):
                value.tofile(file)
                words.append(f"inout={file}:{results[name]}")
            else:
                words.append(f"out={results[name]}:{value}")
    command = [simulator, "run", ptx, "--entry", entry, "--grid", str(grid), "--block", str(block)]
    command += ["--shared", str(shared), *words]
    subprocess.run([str(word) for word in command], check=True)
    return {name: np.fromfile(file, np.float32) for name, file in results.items()}


def step(pos, tokens):
    """The step buffer for tokens of one sequence, whose state is in slot 0."""
    tiles, token = [], 0
    while token < tokens:
        length = min(tokens - token, PAGE - (pos + token) % PAGE)
        tiles.append((0, token, length, pos + token, -1))
        token += length
    tiles[-1] = (*tiles[-1][:4], 0)
    most = min(MAX_TOKENS // PAGE + 2 * MAX_SEQS, MAX_TOKENS)
    of_token = [n for n, tile in enumerate(tiles) for _ in range(tile[2])]
    arrays = [
        ([tokens, 1, len(tiles), 0, 0, -(-tokens // PAGE)], 16),
        ([], MAX_TOKENS),
        ([], 3 * MAX_TOKENS),
        (of_token, MAX_TOKENS),
        *(([tile[field] for tile in tiles], most) for field in range(5)),
        ([0, len(tiles)], MAX_SEQS + 1),
        ([0], MAX_SEQS),
        ([], MAX_SEQS),
        ([], MAX_SEQS * MAX_PAGES),
    ]
    return np.concatenate([np.pad(np.array(a, np.int32), (0, n - len(a))) for a, n in arrays])


def silu(x):
    return x / (1 + np.exp(-x))


def unit(x):
    return x / np.sqrt((x * x).sum(-1, keepdims=True) + EPS)


rng = np.random.default_rng(7)
normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)
q, k, v, z = (silu(normal(TOKENS, HEADS, DK)) for _ in range(4))
a, b = normal(TOKENS, HEADS), normal(TOKENS, HEADS)
decay, dt_bias = -np.exp(normal(HEADS)), normal(HEADS)
norm = 1 + 0.1 * normal(DV)
before = 0.1 * normal(HEADS, DK, DV)
g = (decay * np.log1p(np.exp(a + dt_bias))).astype(np.float32)
beta = (1 / (1 + np.exp(-b))).astype(np.float32)

# Theirs.
fn = theirs.fn
constants = dict.fromkeys(["gk", "gv", "A_log", "dt_bias", "cu_seqlens"])
constants |= dict(H=HEADS, HV=HEADS, K=DK, V=DV, BK=DK, BV=8)
flags = [name for name in fn.arg_names if name.isupper() and name not in constants]
on = ["USE_G", "USE_QK_L2NORM_IN_KERNEL", "IS_BETA_HEADWISE", "USE_INITIAL_STATE", "STORE_FINAL_STATE"]
constants |= {name: name in on for name in flags if "_" in name}
kind = lambda name: "constexpr" if name in constants else {"scale": "fp32", "T": "i32"}.get(name, "*fp32")
source = ASTSource(
    fn,
    {name: kind(name) for name in fn.arg_names},
    constexprs={(fn.arg_names.index(name),): value for name, value in constants.items()},
)
compiled = triton.compile(source, target=GPUTarget("cuda", 80, 32), options={"num_warps": 1})
(folder / "theirs.ptx").write_text(compiled.asm["ptx"])
buffers = [q, k, v, g, beta, ("their_out", 4 * v.size), before, ("their_state", 4 * before.size)]
numbers = [f"f32={1 / math.sqrt(DK)!r}", f"i32={TOKENS}", "u64=0", "u64=0"]
found = simulate(
    folder / "theirs.ptx",
    compiled.metadata.name,
    HEADS * DV // 8,
    32,
    buffers + numbers,
    compiled.metadata.shared,
)
their_out = found["their_out"].reshape(TOKENS, HEADS, DV).astype(np.float64)
their_state = found["their_state"].reshape(HEADS, DK, DV)
scaled = their_out / np.sqrt((their_out**2).mean(-1, keepdims=True) + EPS)
expected = scaled * norm * silu(z.astype(np.float64))

# Ours.
artifact, kernels = folder / "artifact.bin", folder / "kernels"
compile_options = ["--target", "ptx:sm_80", "--activations", "f32", "--max-context", MAX_PAGES * PAGE]
compile_options += ["--max-batch", MAX_SEQS, "--max-chunk", MAX_TOKENS, "-o", artifact]
for command in ["compile", config, *compile_options], ["inspect", artifact, "--extract", kernels]:
    subprocess.run([compiler, *map(str, command)], check=True, stdout=subprocess.DEVNULL)


def ours(name, args, tasks):
    """Run our kernel of that name."""
    (file,) = kernels.glob(f"{name}_*.ptx")
    text = file.read_text()
    entry = text.split(".visible .entry ")[1].split("(")[0]
    dynamic = text.count(".extern .shared")
    assert not dynamic, "its shared memory is of a known size"
    return simulate(file, entry, 16, LANES, [*args, "u64=0", f"u32={tasks}"])


def flat(*parts):
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1).astype(np.float32)


rows = flat(q, k, v, z, b, a)
assert rows.shape[1] == COLUMNS
state = before.reshape(HEADS, DK, DV // PANEL, PANEL).transpose(0, 2, 1, 3).copy()
prompt = flat(unit(q) / math.sqrt(DK), unit(k), v)[:PROMPT]
vectors = [decay, dt_bias, norm.astype(np.float32)]
found = ours(
    "delta_rule",
    [step(0, PROMPT), prompt, rows[:PROMPT], *vectors, ("state", state), ("out", 4 * PROMPT * HEADS * DV)],
    HEADS,
)
outs = [found["out"].reshape(PROMPT, HEADS, DV)]
for token in range(PROMPT, TOKENS):
    sizes = ("squares", 4 * HEADS * DV // PANEL), ("out", 4 * HEADS * DV)
    state = found["state"]
    args = [step(token, 1), rows[token : token + 1], *vectors, ("state", state), *sizes]
    found = ours("delta_step", args, HEADS * DV // PANEL)
    squares = found["squares"].reshape(HEADS, -1).sum(-1, keepdims=True)
    outs.append((found["out"].reshape(HEADS, DV) / np.sqrt(squares / DV + EPS))[None])
state = found["state"].reshape(HEADS, DV // PANEL, DK, PANEL).transpose(0, 2, 1, 3).reshape(HEADS, DK, DV)


def distance(what, found, expected):
    worst = np.abs(found - expected).max() / np.abs(expected).max()
    print(f"{what}: {worst:.1e} of the largest value, at most {BOUND:.0e}")
    return worst <= BOUND


found = np.concatenate(outs)
good = [
    distance(f"outputs of {PROMPT} tokens in chunks", found[:PROMPT], expected[:PROMPT]),
    distance(f"outputs of {DECODED} tokens one by one", found[PROMPT:], expected[PROMPT:]),
    distance("state", state, their_state),
]
sys.exit(0 if all(good) else "the two differ")
