"""``arch-lab env``: where numbers come from. A result without its machine and versions cannot be repeated."""

from __future__ import annotations

import json
import os
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from arch_lab.verbs import parser

PACKAGES = ("torch", "lightning", "jsonargparse", "torchmetrics", "numpy", "einops", "datasets", "tokenizers", "tensorboard", "triton")


def main(verb: str, argv: list[str]) -> int:
    p = parser(verb)
    p.add_argument("--json", action="store_true", help="print as JSON")
    given = p.parse_args(argv)
    found = describe()
    if given.json:
        print(json.dumps(found, indent=2))
        return 0
    for key, value in found.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        if isinstance(value, list):
            value = ", ".join(value)
        print(f"{key:<10}{'-' if value in (None, '') else value}")
    return 0


def describe() -> dict[str, Any]:
    """What a study records about its environment, and memory in bytes, GPUs and package versions beside it."""
    import torch

    from arch_lab.study.environment import environment

    return {
        **environment(),
        "memory": memory(),
        "cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "packages": {name: v for name in PACKAGES if (v := _version(name))},
    }


def memory() -> int | None:
    """Physical memory in bytes; None where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
