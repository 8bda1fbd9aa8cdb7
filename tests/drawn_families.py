"""Random configurations of each Gemma family, in transformers and here: what ``compare`` finds for one seed.

Legend: V vocabulary, C head width, w window, r radius.
transformers computes norms, angles and softmax in float32 whatever the dtype of its weights. ``Wide`` turns these into
float64, so that its function can be compared to 1e-6 and its own rounding measured.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from arch_lab.checkpoints.convert import convert
from arch_lab.checkpoints.folder import load_encoder_decoder, load_model, read_manifest
from arch_lab.checkpoints.interop.gemma import their_name
from arch_lab.checkpoints.interop.t5gemma_names import t5gemma2_name
from arch_lab.models import Shape, recipe
from blocks.errors import UserError

TANH = "gelu_pytorch_tanh"
LOCAL, GLOBAL = "sliding_attention", "full_attention"
LETTER = {"L": LOCAL, "G": GLOBAL}


class Wide(TorchFunctionMode):
    """Whatever asks for float32 gets float64."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.float:
            return args[0].double()
        args = tuple(torch.float64 if value is torch.float32 else value for value in args)
        kwargs = {
            name: torch.float64 if value is torch.float32 else value for name, value in (kwargs or {}).items()
        }
        return func(*args, **kwargs)


@contextmanager
def wide() -> Any:
    torch.set_default_dtype(torch.float64)
    try:
        with Wide():
            yield
    finally:
        torch.set_default_dtype(torch.float32)


@dataclass(frozen=True)
class Outcome:
    """Largest differences of logits at tokens. ``own``: of transformers in float32 to itself in float64."""

    spoilt: str | None = None
    refusal: str | None = None
    gap32: float = 0.0
    gap64: float = 0.0
    own: float = 0.0

    @property
    def limit32(self) -> float:
        return max(1e-4, 3 * self.own)


def randomise(model: nn.Module, seed: int) -> None:
    """Matrices that keep sizes, gains far from where they start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                parameter.add_(0.3 * drawn)
            else:
                parameter.copy_(drawn * (0.3 if "embed" in name else 1.5 * parameter.shape[1] ** -0.5))


# --- configurations ---------------------------------------------------------------------------------------------------


def sizes(draw: Random) -> dict[str, Any]:
    heads = draw.choice((1, 2, 3, 4))
    return {
        "vocab_size": draw.randint(17, 120),
        "hidden_size": heads * draw.choice((4, 6, 8, 12)),
        "intermediate_size": draw.randint(1, 60),
        "num_hidden_layers": draw.randint(1, 5),
        "num_attention_heads": heads,
        "num_key_value_heads": draw.choice([k for k in range(1, heads + 1) if heads % k == 0]),
        "head_dim": 2 * draw.randint(1, 8),
        "max_position_embeddings": 64,
        "rms_norm_eps": draw.choice((1e-6, 1e-6, 1e-5, 1e-3, 0.1)),
    }


def pattern(draw: Random, depth: int) -> list[str]:
    return [draw.choice((LOCAL, LOCAL, GLOBAL)) for _ in range(depth)]


def base(draw: Random) -> float:
    return draw.choice((100.0, 10_000.0, 12_345.6, 1_000_000.0))


def gemma1(draw: Random) -> dict[str, Any]:
    return {
        **sizes(draw),
        "hidden_act": TANH,
        "rope_parameters": {"rope_type": "default", "rope_theta": base(draw)},
    }


def gemma2(draw: Random) -> dict[str, Any]:
    own = sizes(draw)
    return {
        **own,
        "sliding_window": draw.randint(1, 12),
        "layer_types": pattern(draw, own["num_hidden_layers"]),
        "query_pre_attn_scalar": draw.randint(1, 40),
        "attn_logit_softcapping": draw.choice((None, 0.7, 5.0, 50.0)),
        "final_logit_softcapping": draw.choice((None, 1.5, 8.0, 30.0)),
        "rope_parameters": {"rope_type": "default", "rope_theta": base(draw)},
    }


def two_bases(draw: Random) -> dict[str, Any]:
    scaled = {"rope_type": "linear", "factor": draw.choice((0.5, 2.0, 8.0))}
    whole = draw.choice(({"rope_type": "default"}, scaled))
    return {
        LOCAL: {"rope_type": "default", "rope_theta": base(draw)},
        GLOBAL: {**whole, "rope_theta": base(draw)},
    }


def gemma3(draw: Random) -> dict[str, Any]:
    own = sizes(draw)
    return {
        **own,
        "sliding_window": draw.randint(1, 12),
        "layer_types": pattern(draw, own["num_hidden_layers"]),
        "query_pre_attn_scalar": draw.randint(1, 40),
        "rope_parameters": two_bases(draw),
    }


def t5gemma(draw: Random) -> dict[str, Any]:
    """Both stacks, of one size or two; what one option here says of both is equal."""
    decoder = gemma2(draw)
    encoder = dict(decoder)
    if draw.random() < 0.5:
        other = sizes(draw)
        changed = (
            "hidden_size",
            "intermediate_size",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
        )
        encoder |= {name: other[name] for name in changed}
    encoder["sliding_window"] = draw.randint(1, 12)
    return {"encoder": encoder, "decoder": decoder, "vocab_size": decoder["vocab_size"]}


# Fields that change the function, or stop it. Whatever is accepted must compute what transformers computes with them.
SPOILT: tuple[tuple[str, Any], ...] = (
    ("hidden_activation", "silu"),
    ("hidden_activation", "gelu"),
    ("hidden_act", "silu"),
    ("attention_bias", True),
    ("tie_word_embeddings", False),
    ("attention_dropout", 0.1),
    ("use_bidirectional_attention", True),
    ("attn_logit_softcapping", 3.0),
    ("final_logit_softcapping", 3.0),
    ("query_pre_attn_scalar", 7),
    ("sliding_window", 3),
    ("rms_norm_eps", 0.01),
    ("head_dim", 10),
    ("rope_parameters.factor", ("linear", {"factor": 4.0})),
    ("rope_parameters.factor", ("dynamic", {"factor": 2.0})),
    ("rope_parameters.factor", ("yarn", {"factor": 4.0})),
    ("rope_parameters.partial", ("default", {"partial_rotary_factor": 0.5})),
)


def spoil(config: dict[str, Any], draw: Random) -> str:
    name, value = draw.choice(SPOILT)
    if not name.startswith("rope_parameters"):
        config[name] = value
        return f"{name}={value}"
    kind, more = value
    rope = config["rope_parameters"]
    part = rope if "rope_theta" in rope else rope[draw.choice((LOCAL, GLOBAL))]
    part |= {"rope_type": kind, **more}
    return f"rope {kind} {more}"


# --- through convert --------------------------------------------------------------------------------------------------

CONVERTED: dict[str, tuple[str, str, Callable[[Random], dict[str, Any]]]] = {
    "gemma1": ("GemmaConfig", "GemmaForCausalLM", gemma1),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", gemma2),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM", gemma3),
    "t5gemma": ("T5GemmaConfig", "T5GemmaForConditionalGeneration", t5gemma),
}


def compare_converted(name: str, seed: int, folder: Path) -> Outcome | None:
    """One drawn configuration, spoilt in one field of three; None when transformers itself cannot build it."""
    import transformers

    draw = Random(f"{name} {seed}")
    config_name, class_name, drawer = CONVERTED[name]
    config = drawer(draw)
    spoilt = spoil(config["decoder"] if name == "t5gemma" else config, draw) if draw.random() < 0.3 else None
    build = _builder(getattr(transformers, config_name), getattr(transformers, class_name), config)
    if spoilt is None:
        narrow = build()
    else:
        try:
            narrow = build()
        except Exception:
            return None
    randomise(narrow, seed)
    narrow.tie_weights()
    narrow.save_pretrained(folder / "theirs")
    try:
        convert(folder / "theirs", folder / "ours")
    except UserError as error:
        return Outcome(spoilt=spoilt, refusal=str(error))
    finally:
        shutil.rmtree(folder / "theirs")
    manifest = read_manifest(folder / "ours")
    ours = (load_encoder_decoder if name == "t5gemma" else load_model)(folder / "ours", manifest)
    shutil.rmtree(folder / "ours")
    with wide():
        broad = build()
        broad.load_state_dict({key: value.double() for key, value in narrow.state_dict().items()})
        broad.tie_weights()
    return measure(ours, narrow, broad, draw, config, spoilt)


def _builder(config_class: Any, model_class: Any, config: dict[str, Any]) -> Callable[[], Any]:
    import copy

    def build() -> Any:
        made = config_class(**copy.deepcopy(config), attn_implementation="eager")
        return model_class(made).eval()

    return build


@torch.no_grad()
def measure(
    ours: Any, narrow: Any, broad: Any, draw: Random, config: dict[str, Any], spoilt: str | None
) -> Outcome:
    """Logits of both codes in both widths, with padding on one side or none."""
    two_stacks = "decoder" in config
    vocabulary = config["decoder"]["vocab_size"] if two_stacks else config["vocab_size"]
    generator = torch.Generator().manual_seed(draw.randrange(2**31))
    lengths = [draw.randint(1, 40), draw.randint(1, 40)]
    rows = [torch.randint(1, vocabulary, (2, t), generator=generator) for t in lengths]
    valid = padding(draw, lengths[0])
    if two_stacks:
        given = {"input_ids": rows[0], "attention_mask": valid, "decoder_input_ids": rows[1]}
        mine = [ours(*rows, valid), ours.double()(*rows, valid)]
        seen = torch.ones(2, lengths[1], dtype=torch.bool)
    else:
        given = {"input_ids": rows[0], "attention_mask": valid}
        mine = [ours(rows[0], valid), ours.double()(rows[0], valid)]
        seen = valid > 0
    theirs32 = narrow(**given).logits
    with wide():
        theirs64 = broad(**given).logits
    return Outcome(
        spoilt=spoilt,
        gap32=_gap(mine[0], theirs32, seen),
        gap64=_gap(mine[1], theirs64, seen),
        own=_gap(theirs32, theirs64, seen),
    )


def _gap(one: Tensor, two: Tensor, seen: Tensor) -> float:
    return float((one.double() - two.double())[seen].abs().max())


def padding(draw: Random, t: int) -> Tensor:
    valid = torch.ones(2, t, dtype=torch.long)
    side, amount = draw.choice(("none", "left", "right")), draw.randint(0, t - 1)
    if side == "left":
        valid[0, :amount] = 0
    if side == "right":
        valid[1, t - amount :] = 0
    return valid


# --- through the recipe -----------------------------------------------------------------------------------------------


def compare_recipe(name: str, seed: int) -> Outcome:
    """One drawn configuration of an architecture that ``convert`` does not read, the same weights in both codes."""
    draw = Random(f"{name} {seed}")
    config, options, build, name_of = RECIPES[name](draw)
    text = config.get("decoder", config)
    shape = Shape(
        width=text["hidden_size"], depth=text["num_hidden_layers"], ffn_width=text["intermediate_size"]
    )
    ours = recipe(name, options).model(shape, vocabulary=text["vocab_size"], max_tokens=64).eval()
    randomise(ours, seed)
    narrow = build()
    state = {name_of(key): value for key, value in ours.state_dict().items()}
    with wide():
        broad = build()
    for model, dtype in ((narrow, torch.float32), (broad, torch.float64)):
        _, unexpected = model.load_state_dict(
            {key: value.to(dtype) for key, value in state.items()}, strict=False
        )
        assert unexpected == []
        with wide() if dtype == torch.float64 else _nothing():
            model.tie_weights()
    return measure(ours, narrow, broad, draw, config, None)


@contextmanager
def _nothing() -> Any:
    yield


def heads_of(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "heads": config["num_attention_heads"],
        "kv_heads": config["num_key_value_heads"],
        "head_width": config["head_dim"],
    }


def letters(layers: list[str]) -> str:
    return "".join("L" if kind == LOCAL else "G" for kind in layers)


def gemma_encoder_pair(draw: Random) -> Any:
    """Gemma 3 in both directions; its code sees abs(q - k) < w // 2 + 1."""
    import transformers

    config = gemma3(draw) | {"use_bidirectional_attention": True}
    ropes = config["rope_parameters"]
    options = {
        **heads_of(config),
        "query_scale": config["query_pre_attn_scalar"] ** -0.5,
        "pattern": letters(config["layer_types"]),
        "local_rope_base": ropes[LOCAL]["rope_theta"],
        "global_rope_base": ropes[GLOBAL]["rope_theta"],
        "rope_factor": ropes[GLOBAL].get("factor", 1.0),
        "norm_eps": config["rms_norm_eps"],
    }
    build = _builder(transformers.Gemma3TextConfig, transformers.Gemma3ForCausalLM, config)
    whole = {"generation": 3, "radius": config["sliding_window"] // 2, "generation_options": options}
    return config, whole, build, lambda name: their_name(name, sandwich=True)


def gemma4_pair(draw: Random) -> Any:
    import transformers

    config = sizes(draw)
    config["layer_types"] = [
        *pattern(draw, config["num_hidden_layers"] - 1),
        GLOBAL,
    ]  # both codes make the last one global
    config |= {
        "sliding_window": draw.randint(1, 12),
        "attention_k_eq_v": draw.random() < 0.5,
        "global_head_dim": 8 * draw.randint(1, 2),
        "final_logit_softcapping": draw.choice((None, 1.5, 30.0)),
        "hidden_size_per_layer_input": 0,
        "vocab_size_per_layer_input": config["vocab_size"],
    }
    # their code gives global layers heads of their own only where keys are values
    config["num_global_key_value_heads"] = draw.choice((1, config["num_key_value_heads"]))
    global_kv = (
        config["num_global_key_value_heads"] if config["attention_k_eq_v"] else config["num_key_value_heads"]
    )
    options = {
        **heads_of(config),
        "window": config["sliding_window"],
        "pattern": letters(config["layer_types"]),
        "k_eq_v": config["attention_k_eq_v"],
        "global_head_width": config["global_head_dim"],
        "global_kv_heads": global_kv,
        "final_softcap": config["final_logit_softcapping"],
        "norm_eps": config["rms_norm_eps"],
    }
    build = _builder(transformers.Gemma4TextConfig, transformers.Gemma4ForCausalLM, config)
    return config, options, build, lambda name: their_name(name, sandwich=True)


def t5gemma2_pair(draw: Random) -> Any:
    import transformers

    text = gemma3(draw) | {"rms_norm_eps": 1e-6}
    ropes = text["rope_parameters"]
    options = {
        **heads_of(text),
        "query_scale": text["query_pre_attn_scalar"] ** -0.5,
        "window": text["sliding_window"],
        "encoder_span": text["sliding_window"],
        "pattern": letters(text["layer_types"]),
        "local_rope_base": ropes[LOCAL]["rope_theta"],
        "global_rope_base": ropes[GLOBAL]["rope_theta"],
        "rope_factor": ropes[GLOBAL].get("factor", 1.0),
    }
    vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    vision |= {"image_size": 8, "patch_size": 4, "model_type": "siglip_vision_model"}

    def build() -> Any:
        import copy

        inner = copy.deepcopy(text)
        encoder = {"text_config": inner, "vision_config": dict(vision), "mm_tokens_per_image": 1}
        beyond = {"eoi_token_index": text["vocab_size"] + 1, "image_token_index": text["vocab_size"] + 2}
        config = transformers.T5Gemma2Config(encoder=encoder, decoder=copy.deepcopy(text), **beyond)
        config._attn_implementation = "eager"
        return transformers.T5Gemma2ForConditionalGeneration(config).eval()

    return {"decoder": text}, options, build, t5gemma2_name


RECIPES = {"gemma_encoder": gemma_encoder_pair, "gemma4": gemma4_pair, "t5gemma2": t5gemma2_pair}
