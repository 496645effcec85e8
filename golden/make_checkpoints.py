#!/usr/bin/env python3
"""Builds the small random-weight checkpoints in golden/checkpoints and their goldens.

Run by hand when a checkpoint is added or changed; the results are kept in the
repository, so tests need neither this script nor its packages.

    python3 -m venv venv
    venv/bin/pip install torch transformers
    venv/bin/python golden/make_checkpoints.py              # all of them
    venv/bin/python golden/make_checkpoints.py NAME ...     # some of them

CPU only, a few minutes. Written for transformers 5.23. `tiny-moe` is a trained
checkpoint and is not made here.

Each checkpoint has the true Qwen3.5 architecture, with deliberately awkward sizes.
Weights are random, drawn per tensor from a fixed seed, and rounded to the stored
type before anything is computed, so the goldens belong to exactly the stored
values. NAME/golden/{short,long}.safetensors hold

    tokens         [T]     i64
    logits_f32     [T, V]  f32, the library in float32 arithmetic
    logits_bf16    [T, V]  f32, the library's own bfloat16 run, widened
    greedy         [N]     i64, the float32 greedy continuation of tokens
    greedy_margin  [N]     f32, gap between the two best logits at each step
"""

import json
import shutil
import sys
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache
from transformers.utils import logging

HERE = Path(__file__).resolve().parent
GREEDY = 64

LIN, FULL = "linear_attention", "full_attention"
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def rope(section, **kw):
    return {"mrope_interleaved": True, "mrope_section": section, **kw}


# `text`: the keys of the text config, as written to the file. `pattern`: what the
# layers are, for building the tensors (the file may say it otherwise or not at all).
CHECKPOINTS = {
    # Dense, tied. Key/value head ratio 1, one KV head per query head. Pattern from
    # full_attention_interval alone. Announces an MTP block that the file lacks. The
    # tie flag stands at the root only.
    "dense-tied-odd": dict(
        seed=7101,
        nested=True,
        root={"tie_word_embeddings": True},
        pattern=[LIN, LIN, FULL, LIN, LIN, FULL],
        lengths={"short": 40},
        text=dict(
            vocab_size=515, hidden_size=68, intermediate_size=90, num_hidden_layers=6,
            full_attention_interval=3, num_attention_heads=3, num_key_value_heads=3, head_dim=20,
            linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=20,
            linear_value_head_dim=36, linear_conv_kernel_dim=4, rms_norm_eps=1e-6,
            max_position_embeddings=512, mtp_num_hidden_layers=1, dtype="bfloat16",
            rope_parameters=rope([2, 2, 1], rope_type="default", rope_theta=10000, partial_rotary_factor=0.5),
        ),
    ),
    # MoE, head ratio 3 as in the 27B, YaRN, ends with a full layer.
    "moe-ratio3-yarn": dict(
        seed=7218,
        nested=True,
        root={"tie_word_embeddings": False},
        pattern=[LIN, LIN, FULL, LIN, FULL],
        lengths={"short": 41, "long": 211},
        text=dict(
            vocab_size=389, hidden_size=84, num_hidden_layers=5,
            layer_types=[LIN, LIN, FULL, LIN, FULL],
            num_attention_heads=4, num_key_value_heads=2, head_dim=24,
            linear_num_key_heads=2, linear_num_value_heads=6, linear_key_head_dim=12,
            linear_value_head_dim=20, linear_conv_kernel_dim=4,
            num_experts=10, num_experts_per_tok=3, moe_intermediate_size=22,
            shared_expert_intermediate_size=38, rms_norm_eps=1e-6,
            max_position_embeddings=320, mtp_num_hidden_layers=0, mlp_only_layers=[], dtype="bfloat16",
            rope_parameters=rope([2, 2, 2], rope_type="yarn", rope_theta=10000, partial_rotary_factor=0.5,
                                 factor=4.0, original_max_position_embeddings=80),
        ),
    ),
    # Dense, text-only layout, everything in float32. Starts with a full layer, one KV
    # head for four, keys wider than values, three conv taps, a large norm epsilon (which
    # must not reach the l2 norm of q and k). rope_theta beside rope_parameters, and the
    # default rotary share.
    "dense-text-f32": dict(
        seed=7303,
        nested=False,
        root={"tie_word_embeddings": False},
        pattern=[FULL, LIN, LIN, FULL, LIN],
        lengths={"short": 37, "long": 263},
        text=dict(
            vocab_size=301, hidden_size=54, intermediate_size=130, num_hidden_layers=5,
            layer_types=[FULL, LIN, LIN, FULL, LIN],
            num_attention_heads=4, num_key_value_heads=1, head_dim=32,
            linear_num_key_heads=1, linear_num_value_heads=2, linear_key_head_dim=24,
            linear_value_head_dim=16, linear_conv_kernel_dim=3, rms_norm_eps=1e-2,
            max_position_embeddings=1024, dtype="float32", mamba_ssm_dtype="float32",
            rope_theta=50000.0,
            rope_parameters=rope([2, 1, 1], rope_type="default"),
        ),
    ),
    # MoE in float16, one tensor per expert, one expert chosen, head ratio 4, three query
    # heads per KV head, the whole head rotated. No pattern in the file: the default, every
    # fourth. A single shard with an index. With a single expert a tipped choice replaces a
    # token's whole expert output, so the prompt is picked to leave no choice in doubt.
    "moe-perexpert-f16": dict(
        seed=7466,
        nested=True,
        root={"tie_word_embeddings": False},
        pattern=[LIN, LIN, LIN, FULL],
        lengths={"short": 43},
        per_expert=True,
        shards=1,
        decisive=0.5,
        text=dict(
            vocab_size=257, hidden_size=76, num_hidden_layers=4,
            num_attention_heads=6, num_key_value_heads=2, head_dim=16,
            linear_num_key_heads=2, linear_num_value_heads=8, linear_key_head_dim=10,
            linear_value_head_dim=14, linear_conv_kernel_dim=4,
            num_experts=6, num_experts_per_tok=1, moe_intermediate_size=18,
            shared_expert_intermediate_size=50, rms_norm_eps=1e-6,
            max_position_embeddings=512, dtype="float16",
            rope_parameters=rope([3, 3, 2], rope_type="default", rope_theta=1000, partial_rotary_factor=1.0),
        ),
    ),
    # MoE, four shards, with an MTP block (one tensor per expert) and a vision tower that
    # the text path must leave alone; A_log and the DeltaNet norm in bfloat16. Head ratio 2.
    "moe-sharded-extras": dict(
        seed=7540,
        nested=True,
        root={"tie_word_embeddings": False, "image_token_id": 460, "video_token_id": 461,
              "vision_start_token_id": 458, "vision_end_token_id": 459},
        pattern=[LIN, LIN, LIN, FULL, LIN, LIN],
        lengths={"short": 39},
        islands="bfloat16",
        shards=4,
        mtp=True,
        text=dict(
            vocab_size=463, hidden_size=100, num_hidden_layers=6, full_attention_interval=4,
            layer_types=[LIN, LIN, LIN, FULL, LIN, LIN], attn_output_gate=True,
            num_attention_heads=6, num_key_value_heads=3, head_dim=48,
            linear_num_key_heads=3, linear_num_value_heads=6, linear_key_head_dim=32,
            linear_value_head_dim=40, linear_conv_kernel_dim=4,
            num_experts=13, num_experts_per_tok=4, moe_intermediate_size=22,
            shared_expert_intermediate_size=26, rms_norm_eps=1e-6,
            max_position_embeddings=4096, mtp_num_hidden_layers=1, mtp_use_dedicated_embeddings=False,
            mlp_only_layers=[], dtype="bfloat16", mamba_ssm_dtype="float32",
            rope_parameters=rope([2, 2, 2], rope_type="default", rope_theta=10000000, partial_rotary_factor=0.25),
        ),
        vision=dict(
            model_type="qwen3_5_moe", depth=1, hidden_size=24, intermediate_size=40, num_heads=2,
            in_channels=3, patch_size=16, temporal_patch_size=2, spatial_merge_size=2,
            num_position_embeddings=16, out_hidden_size=100, hidden_act="gelu_pytorch_tanh",
            deepstack_visual_indexes=[], initializer_range=0.02,
        ),
    ),
    # MoE, text-only layout, tied. Every second layer full, four query heads per KV head,
    # head ratio 1 with three heads, YaRN with all its optional keys and the older
    # spelling `type`. Odd widths.
    "moe-text-tied": dict(
        seed=7686,
        nested=False,
        root={"tie_word_embeddings": True},
        pattern=[LIN, FULL, LIN],
        lengths={"short": 64},
        text=dict(
            vocab_size=331, hidden_size=61, num_hidden_layers=3, full_attention_interval=2,
            num_attention_heads=8, num_key_value_heads=2, head_dim=28,
            linear_num_key_heads=3, linear_num_value_heads=3, linear_key_head_dim=18,
            linear_value_head_dim=27, linear_conv_kernel_dim=4,
            num_experts=5, num_experts_per_tok=2, moe_intermediate_size=35,
            shared_expert_intermediate_size=13, rms_norm_eps=1e-5,
            max_position_embeddings=160, dtype="bfloat16",
            rope_parameters=rope([3, 2, 2], type="yarn", rope_theta=10000, partial_rotary_factor=0.5,
                                 factor=2.5, original_max_position_embeddings=64, beta_fast=4, beta_slow=0.5,
                                 mscale=1.2, mscale_all_dim=0.7, truncate=False),
        ),
    ),
}


class Tensors:
    """Names in order, values drawn per name, each rounded to its stored type."""

    def __init__(self, seed, dtype):
        self.seed, self.dtype, self.all = seed, dtype, {}

    def rng(self, name):
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])

    def put(self, name, values, dtype=None):
        values = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
        self.all[name] = values.to(dtype or self.dtype)

    def normal(self, name, shape, std, mean=0.0, dtype=None):
        self.put(name, mean + std * self.rng(name).standard_normal(shape), dtype)

    def uniform(self, name, shape, lo, hi, dtype=None):
        self.put(name, self.rng(name).uniform(lo, hi, shape), dtype)

    def linear(self, name, out, inp, gain=1.0):
        self.normal(name + ".weight", (out, inp), gain / inp**0.5)

    def mlp(self, p, h, width):
        self.linear(p + "gate_proj", width, h, 1.5)
        self.linear(p + "up_proj", width, h)
        self.linear(p + "down_proj", h, width, 1.2)


def ffn(t, c, p, per_expert):
    h = c["hidden_size"]
    if "num_experts" not in c:
        t.mlp(p, h, c["intermediate_size"])
        return
    E, I = c["num_experts"], c["moe_intermediate_size"]
    t.linear(p + "gate", E, h, 2.0)
    if per_expert:
        for e in range(E):
            t.mlp(f"{p}experts.{e}.", h, I)
    else:
        t.normal(p + "experts.gate_up_proj", (E, 2 * I, h), 1.2 / h**0.5)
        t.normal(p + "experts.down_proj", (E, h, I), 1.2 / I**0.5)
    t.mlp(p + "shared_expert.", h, c["shared_expert_intermediate_size"])
    t.linear(p + "shared_expert_gate", 1, h)


def attention(t, c, p):
    h, H, K, d = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    t.linear(p + "q_proj", 2 * H * d, h)
    t.linear(p + "k_proj", K * d, h)
    t.linear(p + "v_proj", K * d, h)
    t.linear(p + "o_proj", h, H * d, 2.0)
    t.normal(p + "q_norm.weight", d, 0.25, 0.3)
    t.normal(p + "k_norm.weight", d, 0.25, 0.3)


def deltanet(t, c, p, islands):
    h, nk, nv = c["hidden_size"], c["linear_num_key_heads"], c["linear_num_value_heads"]
    dk, dv = c["linear_key_head_dim"], c["linear_value_head_dim"]
    channels = 2 * nk * dk + nv * dv
    t.linear(p + "in_proj_qkv", channels, h)
    t.linear(p + "in_proj_z", nv * dv, h)
    t.linear(p + "in_proj_b", nv, h)
    t.linear(p + "in_proj_a", nv, h)
    t.normal(p + "conv1d.weight", (channels, 1, c["linear_conv_kernel_dim"]), 0.6)
    # decay rates from near none (the state crosses many chunks) to strong
    t.uniform(p + "A_log", nv, -4.5, 1.0, islands)
    t.normal(p + "dt_bias", nv, 0.8, -1.0)
    t.uniform(p + "norm.weight", dv, 0.4, 1.6, islands)
    t.linear(p + "out_proj", h, nv * dv, 1.5)


def layer(t, c, p, kind, islands, per_expert):
    h = c["hidden_size"]
    t.normal(p + "input_layernorm.weight", h, 0.2)
    if kind == FULL:
        attention(t, c, p + "self_attn.")
    else:
        deltanet(t, c, p + "linear_attn.", islands)
    t.normal(p + "post_attention_layernorm.weight", h, 0.2)
    ffn(t, c, p + "mlp.", per_expert)


def vision(t, v):
    p, hv, mlp, m = "model.visual.", v["hidden_size"], v["intermediate_size"], v["spatial_merge_size"] ** 2

    def affine(name, out, inp):
        t.linear(name, out, inp)
        t.normal(name + ".bias", out, 0.1)

    def layernorm(name):
        t.normal(name + ".weight", hv, 0.2, 1.0)
        t.normal(name + ".bias", hv, 0.1)

    patch = (v["in_channels"], v["temporal_patch_size"], v["patch_size"], v["patch_size"])
    t.normal(p + "patch_embed.proj.weight", (hv, *patch), float(np.prod(patch)) ** -0.5)
    t.normal(p + "patch_embed.proj.bias", hv, 0.1)
    t.normal(p + "pos_embed.weight", (v["num_position_embeddings"], hv), 0.5)
    for n in range(v["depth"]):
        b = f"{p}blocks.{n}."
        layernorm(b + "norm1")
        layernorm(b + "norm2")
        affine(b + "attn.qkv", 3 * hv, hv)
        affine(b + "attn.proj", hv, hv)
        affine(b + "mlp.linear_fc1", mlp, hv)
        affine(b + "mlp.linear_fc2", hv, mlp)
    layernorm(p + "merger.norm")
    affine(p + "merger.linear_fc1", m * hv, m * hv)
    affine(p + "merger.linear_fc2", v["out_hidden_size"], m * hv)


def tensors(spec):
    c = spec["text"]
    islands = DTYPES[spec.get("islands", "float32")]
    t = Tensors(spec["seed"], DTYPES[c["dtype"]])
    h, V = c["hidden_size"], c["vocab_size"]
    tied = spec["root"]["tie_word_embeddings"]
    p = "model.language_model." if spec["nested"] else "model."
    t.normal(p + "embed_tokens.weight", (V, h), 2.5 / h**0.5 if tied else 1.0)
    for n, kind in enumerate(spec["pattern"]):
        layer(t, c, f"{p}layers.{n}.", kind, islands, spec.get("per_expert", False))
    t.normal(p + "norm.weight", h, 0.2)
    if not tied:
        t.linear("lm_head", V, h, 2.5)
    if spec.get("mtp"):
        t.linear("mtp.fc", h, 2 * h)
        for name in ("norm", "pre_fc_norm_hidden", "pre_fc_norm_embedding"):
            t.normal(f"mtp.{name}.weight", h, 0.2)
        layer(t, c, "mtp.layers.0.", FULL, islands, True)
    if "vision" in spec:
        vision(t, spec["vision"])
    return t.all


def config(spec):
    moe = "num_experts" in spec["text"]
    family = "qwen3_5_moe" if moe else "qwen3_5"
    kind = "ForConditionalGeneration" if spec["nested"] else "ForCausalLM"
    root = {"architectures": [("Qwen3_5Moe" if moe else "Qwen3_5") + kind], **spec["root"]}
    common = dict(attention_bias=False, attention_dropout=0.0, hidden_act="silu", use_cache=True,
                  initializer_range=0.02, model_type=family + "_text", bos_token_id=None, pad_token_id=None,
                  eos_token_id=spec["text"]["vocab_size"] - 1)
    text = {**common, **spec["text"]}
    if not spec["nested"]:
        return {**root, **text}
    root.update(model_type=family, dtype=text["dtype"], text_config=text)
    if "vision" in spec:
        root["vision_config"] = spec["vision"]
    return root


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def write_weights(folder, all_tensors, shards):
    meta = {"format": "pt"}
    if shards is None:
        save_file(all_tensors, folder / "model.safetensors", metadata=meta)
        return
    total = sum(v.nbytes for v in all_tensors.values())
    parts, done = [{} for _ in range(shards)], 0
    for name, value in all_tensors.items():
        parts[min(shards * done // total, shards - 1)][name] = value
        done += value.nbytes
    where = {}
    for i, part in enumerate(parts):
        assert part
        stem = "model.safetensors" if shards == 1 else "model"
        file = f"{stem}-{i + 1:05}-of-{shards:05}.safetensors"
        save_file(part, folder / file, metadata=meta)
        where.update({name: file for name in part})
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where})


def load(folder, dtype):
    c = AutoConfig.from_pretrained(folder)
    text = c.get_text_config()
    # the flag may stand at either level; the library's text class reads only its own
    text.tie_word_embeddings = text.tie_word_embeddings or c.tie_word_embeddings
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, config=text, dtype=dtype, attn_implementation="eager", experts_implementation="eager",
        output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"], info
    left = [k for k in info["unexpected_keys"] if not k.startswith(("mtp.", "model.visual."))]
    assert not left, left
    return model.eval()


def check_loaded(model, stored):
    """The float32 model must hold exactly the stored values."""
    have, seen, experts = model.state_dict(), set(), {}
    for name, value in stored.items():
        if name.startswith(("mtp.", "model.visual.")):
            continue
        name = name.replace("model.language_model.", "model.")
        if ".experts." in name and name.endswith(".weight"):
            p, _, rest = name.partition(".experts.")
            e, which, _ = rest.split(".")
            experts.setdefault(p, {})[(int(e), which)] = value.float()
            continue
        assert torch.equal(have[name], value.float()), name
        seen.add(name)
    for p, ws in experts.items():
        n = 1 + max(e for e, _ in ws)
        gate_up = torch.stack([torch.cat([ws[e, "gate_proj"], ws[e, "up_proj"]]) for e in range(n)])
        down = torch.stack([ws[e, "down_proj"] for e in range(n)])
        assert torch.equal(have[p + ".experts.gate_up_proj"], gate_up) and torch.equal(have[p + ".experts.down_proj"], down), p
        seen.update({p + ".experts.gate_up_proj", p + ".experts.down_proj"})
    assert set(have) - seen <= {"lm_head.weight"}, set(have) - seen


def logits(model, ids):
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()


def router_logits(model, batch):
    """Of each layer's router, the logits of `batch` [B, T], as [layers, B, T, E]; none in a dense model."""
    seen = []
    hooks = [m.register_forward_hook(lambda _, __, out: seen.append(out[0].float()))
             for m in model.modules() if type(m).__name__.endswith("TopKRouter")]
    model(input_ids=batch, use_cache=False)
    for hook in hooks:
        hook.remove()
    return torch.stack(seen).unflatten(1, batch.shape) if seen else None


def routing_gaps(model, seen):
    """The gaps between the last chosen and the first unchosen router logit, [layers, B, T]."""
    top = seen.topk(model.config.num_experts_per_tok + 1).values
    return top[..., -2] - top[..., -1]


def routing_gap(model, ids):
    """The smallest gap of a run. Where it is tiny, rounding decides which expert runs; the
    seeds were picked to keep it large."""
    seen = router_logits(model, torch.tensor([ids]))
    return float("inf") if seen is None else float(routing_gaps(model, seen).min())


def decisive_prompt(model, rng, length, ids, least):
    """A random prompt of `length` ids below `ids`, in which each token's gap is at least
    `least` of the standard deviation of the router's logits (over the prompts tried when it
    is picked), in every layer. A choice depends only on the tokens up to it, so each token
    can be picked after those before it."""
    prompt = []
    while len(prompt) < length:
        for some in torch.from_numpy(rng.permutation(ids)).split(32):
            start = torch.tensor(prompt).long().expand(len(some), -1)
            seen = router_logits(model, torch.cat([start, some[:, None]], 1))
            gap = routing_gaps(model, seen)[..., -1] / seen.std((1, 2, 3))[:, None]
            clear = some[gap.amin(0) >= least]
            if len(clear):
                prompt.append(int(clear[0]))
                break
        else:
            raise AssertionError("another seed, please: no token leaves every router decided")
    return prompt


def check_decisive(model, half, ids, runs=10, noise=2.0**-8):
    """The choices of experts must outlast rounding to bfloat16, wherever it is done: the
    library's bfloat16 run, and float32 runs with random relative noise on the output of every
    embedding, norm, mixer, MLP and layer, must choose what the float32 run chooses."""
    def chosen(model):
        k = model.config.num_experts_per_tok
        return router_logits(model, torch.tensor([ids])).topk(k).indices.sort().values

    def disturb(_, __, out):
        return out * (1 + noise * torch.randn(out.shape, generator=generator)) if torch.is_tensor(out) else \
            (disturb(_, __, out[0]), *out[1:])

    want = chosen(model)
    assert torch.equal(chosen(half), want), "the bfloat16 run chooses other experts"
    places = ("Embedding", "RMSNorm", "GatedDeltaNet", "Attention", "SparseMoeBlock", "DecoderLayer")
    generator = torch.Generator().manual_seed(0)
    hooks = [m.register_forward_hook(disturb) for m in model.modules() if type(m).__name__.endswith(places)]
    for _ in range(runs):
        assert torch.equal(chosen(model), want), "under noise other experts are chosen"
    for hook in hooks:
        hook.remove()
    used = [len(layer.unique()) for layer in want]
    assert min(used) == model.config.num_experts, f"another seed, please: experts used by layer {used}"


def greedy(model, ids):
    cache = DynamicCache(config=model.config)
    feed, out, margin = list(ids), [], []
    for _ in range(GREEDY):
        row = model(input_ids=torch.tensor([feed]), past_key_values=cache, use_cache=True).logits[0, -1]
        best = row.topk(2)
        out.append(int(best.indices[0]))
        margin.append(float(best.values[0] - best.values[1]))
        feed = out[-1:]
    return out, margin


def make(name):
    spec = CHECKPOINTS[name]
    folder = HERE / "checkpoints" / name
    if folder.exists():
        shutil.rmtree(folder)
    (folder / "golden").mkdir(parents=True)

    V = spec["text"]["vocab_size"]
    eos = [V - 2, V - 1]
    special = {*eos, *(v for k, v in spec["root"].items() if k.endswith("token_id"))}
    write_json(folder / "config.json", config(spec))
    write_json(folder / "generation_config.json",
               dict(bos_token_id=V - 1, pad_token_id=V - 1, eos_token_id=eos, do_sample=True,
                    temperature=0.6, top_k=20, top_p=0.95))
    stored = tensors(spec)
    write_weights(folder, stored, spec.get("shards"))

    full, half = load(folder, torch.float32), load(folder, torch.bfloat16)
    check_loaded(full, stored)
    for which, length in spec["lengths"].items():
        # no stop or image id in a prompt, nor (the seed sees to that) in a continuation
        rng = np.random.default_rng([spec["seed"], length])
        if "decisive" in spec:
            ids = decisive_prompt(full, rng, length, V - 6, spec["decisive"])
            check_decisive(full, half, ids)
        else:
            ids = rng.integers(0, V - 6, length).tolist()
        f32, bf16 = logits(full, ids), logits(half, ids)
        again, margin = greedy(full, ids)
        # the cached run against one without a cache
        whole = logits(full, ids + again[:-1])[length - 1:]
        assert whole.argmax(-1).tolist() == again, "cached and cacheless greedy runs differ"
        assert not special & set(again), "another seed, please: a special id in the continuation"
        assert torch.isfinite(f32).all() and torch.isfinite(bf16).all()
        save_file(
            {"tokens": torch.tensor(ids), "logits_f32": f32.contiguous(), "logits_bf16": bf16.contiguous(),
             "greedy": torch.tensor(again), "greedy_margin": torch.tensor(margin)},
            folder / "golden" / f"{which}.safetensors")
        err = bf16 - f32
        print(f"{name} {which}: T {length}, logits std {f32.std():.2f} max {f32.abs().max():.1f}, "
              f"bf16 error rms {err.pow(2).mean().sqrt():.3f} max {err.abs().max():.2f}, "
              f"routing gap {routing_gap(full, ids):.4f} ({routing_gap(full, ids + again):.4f} with continuation), "
              f"greedy distinct {len(set(again))}, "
              f"margin min {min(margin):.4f}")
    print(f"{name}: {sum(f.stat().st_size for f in folder.rglob('*') if f.is_file()) / 2**20:.2f} MiB")


if __name__ == "__main__":
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(2)
    torch.set_grad_enabled(False)
    for name in sys.argv[1:] or CHECKPOINTS:
        make(name)
