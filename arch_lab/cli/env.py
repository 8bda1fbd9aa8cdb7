"""``arch-lab env``: where numbers come from. A result without its machine and versions cannot be repeated."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from arch_lab.cli.verbs import parser

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
    arguments = p.parse_args(argv)
    environment = describe()
    if arguments.json:
        print(json.dumps(environment, indent=2))
    else:
        _print(environment)
    return 0


def _print(environment: dict[str, Any]) -> None:
    from arch_lab.console import console, say
    from arch_lab.report.section import SOFT, Cell, Table
    from blocks.dispatch import report

    wishes = os.environ.get(OPERATIONS_VARIABLE)
    out, rows = console(), list[list[Any]]()
    for key, value in environment.items():
        if key in ("operations", OPERATIONS_VARIABLE):
            continue
        if isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items())
        if isinstance(value, list):
            value = ", ".join(value)
        if key == "memory" and value is not None:
            value = f"{value / 2**30:.1f} GiB"
        rows.append([key, None if value == "" else value])
    out.print(Table(headers=["what", "here"], rows=rows, text_columns=(0, 1)))
    request = f"; {OPERATIONS_VARIABLE}={wishes}" if wishes else ""
    say(out, "\noperations (docs/ops.md): what runs here, and why the others do not" + request)
    rows = []
    for name, by_dtype in report().items():
        for dtype, decision in by_dtype.items():
            rows.append([name, dtype, decision.runs or "nothing", decision.reason])
            rows += [
                ["", "", Cell(f"not {other}", SOFT), Cell(reason, SOFT)]
                for other, reason in decision.others.items()
            ]
    out.print(Table(headers=["operation", "dtype", "code", "why"], rows=rows, text_columns=range(4)))


def describe() -> dict[str, Any]:
    """What a study records about its environment; beside it memory in bytes, GPUs, package versions and which
    code runs the operations.
    """
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
