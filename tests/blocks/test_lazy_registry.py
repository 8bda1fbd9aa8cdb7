"""Any module of the block library can be the first one imported."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from blocks.dispatch.choice import compile_time_constant
from tests.cli.terminals import ROOT


@pytest.mark.parametrize(
    "module",
    [
        "blocks.convolution.gated_causal",
        "blocks.convolution.long",
        "blocks.monarch.matrix",
        "blocks.registry",
    ],
)
def test_a_module_can_be_imported_first_and_without_the_compiler(module: str) -> None:
    code = f"import sys, {module}, blocks; assert blocks.RMSNorm and 'torch._dynamo' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_compile_time_constant_is_marked_as_torch_marks_it() -> None:
    assert vars(compile_time_constant(lambda: 1)) == vars(torch.compiler.assume_constant_result(lambda: 1))


def test_errors_and_configs_load_without_torch() -> None:
    code = "import sys, blocks.errors, blocks.config, arch_lab.files; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
