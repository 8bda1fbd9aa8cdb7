"""A tiny study in a copy of the packages, whose files are then edited: ``python -m tests.cli.edited_tree`` prints what was answered.

``used``: the files in the identity of the runs. ``run``: files of ours with a function that ran while a run was trained.
``refused``: (edited files, last line of the comparison), three files at a time, as many as a line names.
``kept``: what was edited -> (exit code, whether stored runs are untouched).
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from tests.cli import stored

ROOT = Path(__file__).resolve().parents[2]
SHAPE = {"width": 32, "depth": 1, "ffn_width": 32}
ARMS = [{"architecture": name, "shape": SHAPE} for name in ("gemma1", "m2_gpt")]
BUDGET = {"params": 1.5e4, "tokens": 256, "allow_unmatched": True}
UNRELATED = (  # another block, recipe and reader; what only registers, judges and shows
    *(
        "blocks/vision/patches.py",
        "blocks/triplet/head.py",
        "blocks/index.py",
        "blocks/__init__.py",
        "arch_lab/models/__init__.py",
    ),
    *("arch_lab/models/t5gemma.py", "experiments/glue/reader.py", "experiments/triplets/library.py"),
    *("arch_lab/report/tables.py", "arch_lab/cli/compare.py", "arch_lab/judge/pairs.py"),
)


class Trace:
    """Files of ours that run a function inside ``study.run.train``; for ``sys.settrace``."""

    def __init__(self) -> None:
        self.codes: set[CodeType] = set()
        self.training = False

    @property
    def files(self) -> set[str]:
        files = {code.co_filename for code in self.codes if code.co_name != "<module>"}
        return {Path(f).relative_to(ROOT).as_posix() for f in files if f.startswith(f"{ROOT}/")}

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        """Note a call, and the end of the training loop: no other function is watched line by line."""
        if self.training:
            self.codes.add(frame.f_code)
        elif frame.f_code.co_name == "train" and frame.f_code.co_filename.endswith("study/run.py"):
            self.training, frame.f_trace_lines = True, False
            self.codes.add(frame.f_code)
            return self.end
        return None

    def end(self, frame: FrameType, event: str, argument: Any) -> Any:
        self.training = event != "return"
        return self.end


def statement(text: str, path: Path) -> str:
    return text + ("\n// edited\n" if path.suffix in (".cu", ".cuh") else "\nEDITED = True\n")


def docstrings(text: str, path: Path) -> str:
    """Other words in the first docstring of a module and of its functions, a comment, another layout."""
    words = re.sub(r'^( *)"""(?=[^\s"])', r'\1"""Edited. ', text, flags=re.MULTILINE)
    return f"# edited\n\n{words}\n\n# edited\n" if path.suffix == ".py" else text


def edited(names: Iterable[str], change: Callable[[str, Path], str], call: Callable[[], Any]) -> Any:
    """What ``call`` returns while these files are edited."""
    paths = [ROOT / name for name in names]
    before = {path: path.read_bytes() for path in paths}
    try:
        for path in paths:
            path.write_text(change(before[path].decode(), path))
        return call()
    finally:
        for path, content in before.items():
            path.write_bytes(content)


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    stored.write_study(folder, arms=ARMS, budget=BUDGET)
    trace = Trace()
    sys.settrace(trace)
    first = stored.compare(folder)
    sys.settrace(None)
    assert first.code == 0, first.err
    identities = [
        json.loads(path.read_text()) for path in sorted(folder.glob("runs/small/runs/*/*/config.json"))
    ]
    used = sorted({name for identity in identities for name in identity["code"]})
    one, other = (sorted(identity["code"]) for identity in identities)
    other = [name for name in other if name not in one]  # an arm that is refused hides those behind it
    batches = [names[i : i + 3] for names in (one, other) for i in range(0, len(names), 3)]

    def last_line() -> str:
        done = stored.compare(folder)
        return done.last if done.code == 2 else f"exit code {done.code}"

    def outcome() -> tuple[int, bool]:
        runs = folder / "runs/small/runs"
        before = stored.tree(runs)
        return stored.compare(folder).code, stored.tree(runs) == before

    result = {
        "used": used,
        "run": sorted(trace.files),
        "refused": [(names, edited(names, statement, last_line)) for names in batches],
        "kept": {
            "docstrings": edited(used, docstrings, outcome),
            "unrelated": edited(UNRELATED, statement, outcome),
        },
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
