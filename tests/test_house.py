"""The rules of the house: who may import whom, what may never exist, what the documentation promises."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
# packages absent from lean machines (GPU nodes without network): the block library must not notice
ABSENT = (
    "lightning",
    "jsonargparse",
    "datasets",
    "dill",
    "multiprocess",
    "beartype",
    "torchdata",
    "tokenizers",
    "rich",
    "tensorboard",
)
FORBIDDEN = {
    "blocks": {
        "arch_lab",
        "experiments",
        "lightning",
        "torchmetrics",
        "jsonargparse",
        "datasets",
        "tokenizers",
        "transformers",
        "rich",
    },
    "arch_lab": {"experiments", "tests"},
    "experiments": {"tests"},
}


def imported(file: Path) -> set[str]:
    """Top-level names a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_run_one_way(package: str) -> None:
    files = list((ROOT / package).rglob("*.py"))
    wrong = {
        str(file.relative_to(ROOT)): bad for file in files if (bad := imported(file) & FORBIDDEN[package])
    }
    assert files and not wrong


def test_the_block_library_needs_torch_and_einops_alone() -> None:
    code = f"import sys\nfor name in {ABSENT!r}: sys.modules[name] = None\nimport blocks; assert blocks.entries()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_the_block_library_imports_in_well_under_the_time_of_lightning() -> None:
    # processor time: what else the machine does must not decide
    code = "import time, blocks; blocks.entries(); a = time.process_time(); import lightning; "
    code += "print(a, time.process_time())"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    library, with_lightning = map(float, done.stdout.split())
    assert library < 0.75 * with_lightning


def test_the_name_cuda_is_left_to_its_owner() -> None:
    assert not (ROOT / "cuda" / "__init__.py").exists()


def test_no_file_holds_an_absolute_path_of_somebodys_machine() -> None:
    pattern = re.compile(r"(?<![\w.])/(?:home|root|Users|work)/\w")
    kinds = {".py", ".yaml", ".toml", ".md", ".txt", ""}
    places = [
        ROOT / name
        for name in (
            "arch_lab",
            "blocks",
            "experiments",
            "cuda",
            ".ci",
            "Makefile",
            "pyproject.toml",
            "README.md",
            "CONTRIBUTING.md",
        )
    ]
    files = [
        f
        for place in places
        for f in ([place] if place.is_file() else place.rglob("*"))
        if f.is_file() and f.suffix in kinds
    ]
    assert not [
        str(f.relative_to(ROOT))
        for f in files
        if pattern.search(f.read_text(encoding="utf-8", errors="ignore"))
    ]


def test_every_direct_dependency_is_pinned_exactly() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["dev"], *extras["report"], *extras["lm-eval"]]
    names = {re.match(r"[\w-]+", entry)[0].lower() for entry in wanted}  # type: ignore[index]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.partition("==")[0].lower() for line in lines if "==" in line and not line.startswith("#")}
    assert names <= pinned


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """The worked example of CONTRIBUTING.md, saved to a file as its reader would."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    code = next(
        block for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL) if "@register" in block
    )
    file = tmp_path_factory.mktemp("example") / "documented_token_shift.py"
    file.write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    yield module
    from blocks import registry

    # leave the registry as found: other tests run over everything in it
    registry._entries.pop("token_shift", None)
    del sys.modules[file.stem]


def test_the_documented_example_decodes_as_it_computes_in_parallel(example: ModuleType) -> None:
    block = example.TokenShiftConfig(width=4).build().double()
    x = torch.randn(2, 7, 4, dtype=torch.float64)
    state, chunks = block.init_state(2, 7), []
    for chunk in x.split([3, 1, 3], dim=1):
        y, state = block.prefill(chunk, state)
        chunks.append(y)
    torch.testing.assert_close(torch.cat(chunks, dim=1), block(x), rtol=0, atol=1e-14)


def test_the_documented_example_keeps_documents_apart(example: ModuleType) -> None:
    block = example.TokenShiftConfig(width=4).build()
    x = torch.randn(1, 6, 4)
    packed = block(x, torch.tensor([[1, 1, 1, 2, 2, 0]]))
    torch.testing.assert_close(packed[:, 3:5], block(x[:, 3:5]))
    assert packed[:, 5].abs().max() == 0


def test_the_documented_example_reports_the_state_it_holds(example: ModuleType) -> None:
    from blocks.contract import tensors_nbytes

    block = example.TokenShiftConfig(width=4).build()
    _, state = block.prefill(torch.randn(3, 5, 4), block.init_state(3, 5))
    assert tensors_nbytes(state) == 3 * block.state_bytes(5)
