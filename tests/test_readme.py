"""The README as its reader uses it: every command it shows is run, in its order, in one folder."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from arch_lab.cli import main

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
COMMANDS = [
    line.partition("  #")[0].strip()
    for kind, text in BLOCKS
    if not kind
    for line in text.splitlines()
    if line.strip()
]
PYTHON = next(text for kind, text in BLOCKS if kind == "python")
RUN = "runs/my_study/runs/gemma3/60000/lr-0.012_seed-0"

TINY = {
    "budget.sizes": "[60000]",
    "budget.train_flops": "1.6e9",
    "training.sequence_length": "32",
    "training.batch_size": "2",
    "data.tokenizer": "{kind: bytes}",
    "data.source": "files",
    "data.files": "{train: my_texts}",
    "data.document_start": "^# ",
    "data.validation_fraction": "0.03",
    "data.tune_fraction": "0.03",
    "search.space.learning_rate.points": "1",
    "seeds": "[0]",
}
SMALLER = {  # what a test adds so that a command takes seconds
    "arch-lab compare my_study.yaml": [
        word for key, value in TINY.items() for word in ("--set", f"{key}={value}")
    ],
    f"arch-lab generate {RUN} --prompt 'The statement'": ["--max-tokens", "8"],
}
SLOW = {  # too long for the quick tests even when made smaller
    "arch-lab certify my_module:MyMixer": [],
    "arch-lab compare throughput": [
        *(
            "--set",
            "budget.params=6.0e4",
            "--set",
            "match_length=64",
            "--set",
            "lengths=[32,64]",
            "--set",
            "vocabulary=64",
        ),
        *("--set", "tokens_per_step=128", "--set", "decode_tokens=4", "--set", "cell_seconds=60"),
        *(
            "--set",
            "arms=[{architecture: gemma3, options: {pattern: LG, window: 16}}, {architecture: m2_gpt}]",
        ),
    ],
    "arch-lab compare quickmask": [
        *("--set", "budget.params=2.0e5", "--set", "budget.train_flops=1.2e10", "--set", "seeds=[0]"),
        *(
            "--set",
            "training.sequence_length=64",
            "--set",
            "training.batch_size=1",
            "--set",
            "learning_rates=[0.004]",
        ),
        *("--set", "arms.0.options={generation: 3, radius: 8, generation_options: {pattern: LG}}"),
        *("--set", "objective.evaluation_windows=8"),
    ],
    "arch-lab fit --config experiments/perplexity/fit.yaml": ["--trainer.max_steps", "2"],
    "arch-lab bench linear": [],
}
FIRST = [
    "arch-lab init my_study.yaml",
    "arch-lab compare my_study.yaml",
]  # what the other commands start from
ANSWERS: dict[str, tuple[int, str]] = {}
ELSEWHERE = {"make compare", "make test", "tensorboard --logdir runs/my_study"}


def example_module() -> str:
    """The worked example of CONTRIBUTING.md as ``my_module:MyMixer``."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    code = next(
        block for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL) if "@register" in block
    )
    return code.replace("TokenShift", "MyMixer").replace('"token_shift"', '"my_mixer"')


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The reader's folder: own texts, an own block, and the checkout's experiments."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "my_module.py").write_text(example_module(), encoding="utf-8")
    (folder / "my_texts").mkdir()
    text = "\n".join(f"# {key}\n{topics[key]}" for key in sorted(topics)[:30])
    (folder / "my_texts" / "topics.txt").write_text(text, encoding="utf-8")
    (folder / "experiments").symlink_to(ROOT / "experiments")
    sys.modules.pop("my_module", None)  # that of another test
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(folder))
    with contextlib.chdir(folder):
        for command in FIRST:
            ANSWERS[command] = run(command, SMALLER.get(key(command), []))
        yield folder
    patch.undo()
    sys.modules.pop("my_module", None)


def run(command: str, extra: list[str]) -> tuple[int, str]:
    """Exit code and printed text of one command line."""
    out, err = io.StringIO(), io.StringIO()
    words = shlex.split(command)[1:] + extra
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    return code, out.getvalue() + err.getvalue()


def key(command: str) -> str:
    return shlex.join(shlex.split(command))


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("arch-lab") and key(c) not in SLOW])
def test_command_of_the_readme_works(desk: Path, command: str) -> None:
    code, printed = ANSWERS.get(command) or run(command, SMALLER.get(key(command), []))
    assert code == 0, printed[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in COMMANDS if key(c) in SLOW])
def test_slow_command_of_the_readme_works(desk: Path, command: str) -> None:
    code, printed = run(command, SLOW[key(command)])
    assert code == 0, printed[-2000:]


def test_every_other_command_of_the_readme_is_known() -> None:
    assert {c for c in COMMANDS if not c.startswith("arch-lab")} == ELSEWHERE


@pytest.mark.parametrize("target", ["compare", "test"])
def test_make_targets_of_the_readme_exist(target: str) -> None:
    done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and ("arch-lab compare quickstart" in done.stdout or "pytest" in done.stdout)


def test_the_python_lines_of_the_readme_work(desk: Path) -> None:
    smaller = PYTHON.replace('"quickstart"', '"my_study.yaml"').replace(
        "runs/quickstart/runs/m2_gpt", "runs/my_study/runs/m2_gpt"
    )
    smaller = smaller.replace(
        '"my_study.yaml")', f'"my_study.yaml", overrides={[f"{k}={v}" for k, v in TINY.items()]!r})'
    )
    names: dict[str, object] = {}
    exec(compile(smaller, "README.md", "exec"), names)
    study, model = names["study"], names["model"]
    assert study.verdict.text and sum(p.numel() for p in model.parameters())  # type: ignore[attr-defined]


def test_the_figure_shows_the_numbers_of_the_measured_table(tmp_path: Path) -> None:
    source = ROOT / "docs" / "figures" / "draw_wikitext2.py"
    spec = importlib.util.spec_from_file_location("draw_wikitext2", source)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.draw(tmp_path / "figure.svg")
    numbers = [
        re.findall(r">([\d.]+|\w+)</text>", file.read_text())
        for file in (tmp_path / "figure.svg", module.FIGURE)
    ]
    assert numbers[0] == numbers[1] and {"m2_gpt", "1.848", "trigram"} <= set(numbers[0])


def test_links_of_the_documentation_lead_somewhere() -> None:
    pages = [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "experiments").glob("*/*.md"),
        ROOT / "cuda" / "README.md",
    ]
    broken = [
        f"{page.relative_to(ROOT)}: {link}"
        for page in pages
        for link in re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", page.read_text(encoding="utf-8"))
        if not (page.parent / link).exists()
    ]
    assert not broken
