"""Finished studies for tests of what a later call does with them: small, with a block of the user's own in one arm."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arch_lab.cli import main
from tests.small_study import small_study

BLOCK = '''
from dataclasses import dataclass
from blocks import BlockConfig, register
from blocks.contract import ChannelMixer
from blocks.cost import Cost
from users_numbers import FACTOR

@dataclass(frozen=True, kw_only=True)
class ScaleConfig(BlockConfig):
    width: int

@register("users_scale", kind="channel_mixer", config=ScaleConfig, source="a test")
class Scale(ChannelMixer):
    """Multiplies."""
    def forward(self, x):
        return FACTOR * x
    def cost(self, tokens):
        return Cost(elementwise=tokens * self.config.width)
    def reset_parameters(self):
        pass
'''
SHAPE = {"width": 32, "depth": 2, "ffn_width": 32}
ARMS: list[dict[str, Any]] = [
    {"architecture": "gemma1", "shape": SHAPE},
    {
        "architecture": "custom",
        "name": "mine",
        "shape": SHAPE,
        "options": {"mixer": "gemma1_attention", "channel": "users_block:Scale"},
    },
]
BUDGET = {"params": 1.5e4, "tokens": 1920, "allow_unmatched": True}  # 30 steps


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def last(self) -> str:
        return self.err.rstrip().splitlines()[-1]


def write_block(folder: Path, factor: str = "0.5") -> None:
    """The user's two files; their modules are forgotten, as in a new process."""
    (folder / "users_block.py").write_text(BLOCK)
    (folder / "users_numbers.py").write_text(f"FACTOR = {factor}\n")
    forget()


def forget() -> None:
    for name in ("users_block", "users_numbers"):
        sys.modules.pop(name, None)
    sys.path[:] = [p for p in sys.path if not (Path(p) / "users_block.py").is_file()]


def write_study(folder: Path, **changes: Any) -> Path:
    return small_study(folder, **{"arms": ARMS, "budget": BUDGET, **changes})


def run(folder: Path, *words: str) -> Done:
    """``arch-lab words`` inside ``folder``, in this process."""
    out, err = io.StringIO(), io.StringIO()
    before = os.environ.get("ARCH_LAB_CACHE")
    os.environ["ARCH_LAB_CACHE"] = str(folder / "cache")
    try:
        with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(list(words))
    finally:
        os.environ.pop("ARCH_LAB_CACHE")
        if before is not None:
            os.environ["ARCH_LAB_CACHE"] = before
    return Done(code, out.getvalue(), err.getvalue())


def compare(folder: Path, *words: str) -> Done:
    return run(folder, "compare", "small.yaml", "--threads", "1", *words)


def tree(folder: Path) -> dict[str, tuple[str, int]]:
    """Every file with its hash and the time of its last change."""
    return {
        str(p.relative_to(folder)): (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns)
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }
