"""Any module of the block library can be the first one imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
def test_a_module_can_be_imported_first(module: str) -> None:
    subprocess.run(
        [sys.executable, "-c", f"import {module}, blocks; assert blocks.RMSNorm"], check=True, cwd=ROOT
    )


def test_errors_and_configs_load_without_torch() -> None:
    code = "import sys, blocks.errors, blocks.config, arch_lab.files; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
