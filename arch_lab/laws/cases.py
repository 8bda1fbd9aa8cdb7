"""Small configurations of any registered block: what the laws are tried on.

A block may name its own: a classmethod ``law_cases() -> list[dict]`` of complete options. Otherwise they
follow from the fields of its config. Sizes known by name get a small value (SMALL); every other field keeps
its default, and one without a default is an error that says so. Then options are varied: flags are flipped,
literals take each value, and fields known by name (VARIANTS) take values that make them bite, such as a
window shorter than the sequences.
"""

from __future__ import annotations

import typing
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from blocks.config import Options
from blocks.contract import BlockConfig
from blocks.errors import ConfigError
from blocks.registry import Entry

LONGEST = 65  # the longest sequence a law draws: a power of two plus one
WINDOW = 5

SMALL: Options = {
    "width": 8,
    "heads": 4,
    "kv_heads": 2,
    "head_width": 4,  # heads · head_width differs from the width on purpose
    "memory_width": 6,
    "max_tokens": LONGEST,
    "ffn_width": 12,
    "filter_order": 8,
    "blocks": 2,
    "in_features": 6,
    "out_features": 10,
    "vocabulary": 11,
    "state_width": 4,
    "dropout": 0.0,
    "classes": 3,
    "outputs": 5,  # one alone may come out near 0, where bfloat16 has no digits
    "entities": 7,
    "entity_width": 6,
    "embedding_width": 5,
}
VARIANTS: dict[str, list[Options]] = {
    "window": [{"window": WINDOW, "kv_heads": 1}],
    "radius": [{"causal": False, "radius": 2}, {"causal": False, "radius": [1, 2]}],
    "kv_heads": [{"kv_heads": SMALL["heads"]}],
    # as in Hyena's image model
    "short_taps": [{"short_taps": 5, "filter_inner": 1, "train_positions": True}],
    "short_convolution": [
        {"short_convolution": 3, "window": WINDOW},
        {"short_convolution": 4, "causal": False, "radius": 2},
    ],
    "k_eq_v": [{"k_eq_v": True, "short_convolution": 2}],
    "ablate": [
        {"ablate": ["long_convolution"]},
        {"ablate": ["short_convolution", "gates"]},
        {"ablate": ["gates"], "causal": False, "residual_long_conv": True},
    ],
    "taps": [{"taps": 7}, {"taps": 7, "causal": False, "residual_long_conv": True}],
    "softcap": [{"softcap": None}, {"softcap": 2.0, "window": WINDOW}],
    "rope_factor": [{"rope_factor": 8.0, "query_scale": 0.7}],
    "rope_fraction": [{"rope_fraction": 0.5, "rope_drop": "high"}],
    "final_softcap": [{"final_softcap": 3.0}],
    "order": [{"order": 3}, {"order": 3, "base": 2, "groups": 2}],
    "base": [{"base": 4, "groups": 4, "members": "shared"}],  # base does not divide most lengths
    "blocks": [{"blocks": 4}],  # does not divide 6 or 10: padded blocks
    "k": [{"k": 3}, {"k": LONGEST}],
    "slots": [{"slots": 3}],
    "hidden": [{"hidden": 5}],
    "low": [{"low": 1.0, "high": 5.0}],
    "entity_width": [{"entity_width": None}, {"entity_width": None, "temperature": 0.1}],
    "margin": [{"soft": True, "distance": "cosine"}],
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One configuration: ``name`` says what differs from the first case."""

    name: str
    options: Options = field(hash=False)
    first: bool = False

    def __str__(self) -> str:
        return self.name


def cases(entry: Entry) -> list[Case]:
    """Configurations to try ``entry`` in, the plainest first.

    Raises: ConfigError when a required option cannot be guessed, naming it and the way out (``law_cases``).
    """
    law_cases = getattr(entry.block, "law_cases", None)
    if law_cases is not None:
        return _listed(entry, law_cases())
    plain = _plain(entry)
    derived = [Case(name="plain", options=plain, first=True)]
    configs = [entry.config.from_options(plain)]
    for change in _changes(entry.config):
        options = plain | change
        config = _config_or_none(entry, options)
        if config is None or config in configs:
            continue  # options that exclude each other, or a variant that is the default
        configs.append(config)
        derived.append(Case(name=_described(change), options=options))
    return derived


def _listed(entry: Entry, all_options: list[Options]) -> list[Case]:
    """The configurations that a block lists itself.

    Raises: ConfigError for none, or for wrong options.
    """
    if not all_options:
        raise ConfigError(f"block {entry.name!r}: law_cases() returned no cases")
    for options in all_options:
        entry.config.from_options(options, where=f"block {entry.name!r}, law_cases")
    names = [_described(options) or "as given" for options in all_options]
    pairs = enumerate(zip(names, all_options, strict=True))
    return [Case(name=name, options=dict(options), first=i == 0) for i, (name, options) in pairs]


def _plain(entry: Entry) -> Options:
    options: Options = {}
    for f in fields(entry.config):
        if f.name in SMALL:
            options[f.name] = SMALL[f.name]
        elif f.default is MISSING and f.default_factory is MISSING:
            options[f.name] = _guess(entry, f.name)
    try:
        entry.config.from_options(options, where=f"block {entry.name!r}")
    except ConfigError as error:
        text = f"{error}; the laws tried {_described(options)}: give the block a classmethod law_cases()"
        raise ConfigError(text) from None
    return options


def _guess(entry: Entry, name: str) -> Any:
    hint = typing.get_type_hints(entry.config)[name]
    if hint is bool:
        return False
    if typing.get_origin(hint) is typing.Literal:
        return typing.get_args(hint)[0]
    raise ConfigError(
        f"block {entry.name!r}: no small value is known for its required option {name!r}; "
        "give the block a classmethod law_cases() that returns a list of option dicts"
    )


def _changes(config: type[BlockConfig]) -> list[Options]:
    """What to vary, in order: the direction, flags, literals, then the fields known by name."""
    hints = typing.get_type_hints(config)
    by_name = {f.name: f for f in fields(config)}
    flips: list[Options] = []
    for name, f in by_name.items():
        if hints[name] is bool and f.default is not MISSING:
            flips.append({name: not f.default})
        elif typing.get_origin(hints[name]) is typing.Literal:
            flips += [{name: value} for value in typing.get_args(hints[name])]
    directions = [change for change in flips if "causal" in change]
    both = [directions[0] | change for change in flips if directions and change != directions[0]]
    # a variant may set what a config does not have: a window without grouped heads
    variants = [change for name in VARIANTS if name in by_name for change in VARIANTS[name]]
    return [*flips, *both, *({k: v for k, v in change.items() if k in by_name} for change in variants)]


def _config_or_none(entry: Entry, options: Options) -> BlockConfig | None:
    try:
        return entry.config.from_options(options)
    except ConfigError:
        return None


def _described(options: Options) -> str:
    return ",".join(f"{name}={value}" for name, value in options.items())
