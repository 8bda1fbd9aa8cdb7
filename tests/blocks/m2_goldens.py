"""Loads the reference vectors of tests/goldens/m2 (see the README there) and names their parameters as ours are named."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

FOLDER = Path(__file__).parents[1] / "goldens" / "m2"


def golden(name: str) -> dict[str, Tensor]:
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    """Relative to the scale of the expected tensor: gradients through sine networks are of order 1e3."""
    torch.testing.assert_close(
        actual, expected.to(actual.dtype), rtol=0, atol=tolerance * max(1.0, expected.abs().max().item())
    )


def group(arrays: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}


def ours(name: str, filter_prefix: str = "") -> str | None:
    """Our name of a reference parameter; None for deterministic buffers and the repeated listings of the shared frequency."""
    name = name.removeprefix("filter_fn.")
    if name == "bias":
        return "skip"
    if name == "pos_emb.z":
        return f"{filter_prefix}positions"
    if name == "implicit_filter.1.freq":
        return f"{filter_prefix}frequency"
    if name.endswith(".freq") or name in ("pos_emb.t", "modulation.deltas"):
        return None
    layer = re.fullmatch(r"implicit_filter(_rev)?\.(\d)\.(weight|bias)", name)
    if layer:
        # maps and sines alternate in the reference's list
        return f"{filter_prefix}{'behind' if layer[1] else 'ahead'}.{int(layer[2]) // 2}.{layer[3]}"
    return name.replace("short_filter", "short")


def mixer_name(name: str) -> str | None:
    """Our name inside M2Mixer of a parameter of the reference's sequence mixer."""
    mapped = ours(name, "filter.")
    return f"long.{mapped}" if mapped is not None and name.startswith("filter_fn.") else mapped


def load(module: nn.Module, parameters: dict[str, Tensor]) -> None:
    """Copies every parameter, shapes squeezed to ours; each of ours must be given."""
    wanted = dict(module.named_parameters())
    assert set(parameters) == set(wanted)
    with torch.no_grad():
        for name, value in parameters.items():
            wanted[name].copy_(value.reshape(wanted[name].shape))
