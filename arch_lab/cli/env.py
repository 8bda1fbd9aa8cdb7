"""``arch-lab env``: where numbers come from. A result without its machine and versions cannot be repeated."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version

from arch_lab.cli.verbs import parser
from arch_lab.yaml_files import JsonObject

PACKAGES = (
    "torch",
    "lightning",
    "jsonargparse",
    "torchmetrics",
    "numpy",
    "einops",
    "datasets",
    "tokenizers",
    "tensorboard",
    "triton",
)
OPERATIONS_VARIABLE = "ARCH_LAB_OPS"  # blocks.dispatch.VARIABLE, without importing torch for --help


def main(verb: str, argv: list[str]) -> int:
    p = parser(verb)
    p.add_argument("--json", action="store_true", help="print as JSON")
    options = p.parse_args(argv)
    description = describe()
    if options.json:
        print(json.dumps(description, indent=2))
        return 0
    _print(description)
    return 0


def _print(description: JsonObject) -> None:
    from arch_lab.console import Table, console, say

    operations, requested = description.pop("operations"), description.pop(OPERATIONS_VARIABLE)
    out, facts = console(), Table(["what", "here"], words=(0, 1))
    for key, value in description.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        if isinstance(value, list):
            value = ", ".join(value)
        if key == "memory" and value is not None:
            value = f"{value / 2**30:.1f} GiB"
        facts.add(key, None if value == "" else value)
    out.print(facts)
    suffix = f"; {OPERATIONS_VARIABLE}={requested}" if requested else ""
    say(out, "\noperations (docs/ops.md): what runs here, and why the others do not" + suffix)
    table = Table(["operation", "dtype", "code", "why"], words=(0, 1, 2, 3))
    for name, by_dtype in operations.items():
        for dtype, entry in by_dtype.items():
            table.add(name, dtype, entry["runs"] or "nothing", entry["reason"])
            for other, reason in entry["others"].items():
                table.add("", "", f"not {other}", reason, style="dim")
    out.print(table)


def describe() -> JsonObject:
    """The environment as a study records it, with memory, GPUs, packages and operations."""
    import torch

    from arch_lab.study.environment import environment
    from blocks.dispatch import report

    return {
        **environment(),
        "memory": memory(),
        "cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "packages": {name: v for name in PACKAGES if (v := _version(name))},
        OPERATIONS_VARIABLE: os.environ.get(OPERATIONS_VARIABLE),
        "operations": {
            name: {dtype: asdict(decision) for dtype, decision in by_dtype.items()}
            for name, by_dtype in report().items()
        },
    }


def memory() -> int | None:
    """Physical memory in bytes, or None where the system does not report it."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
