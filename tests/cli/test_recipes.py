"""A recipe of another package: by import path, or by the name that an installed package registers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from arch_lab.cli import main
from arch_lab.models import recipe, recipe_class, register_architecture, registry
from blocks.errors import ConfigError
from tests.cli.terminals import ROOT
from tests.cli.test_page_commands import fenced
from tests.small_study import small_study

COST = ["--width", "64", "--depth", "4", "--seq-len", "128", "--json"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, with the recipe of CONTRIBUTING.md as my_recipes.py."""
    source = fenced("CONTRIBUTING.md", "python", "class Turns(Recipe)")
    (tmp_path / "my_recipes.py").write_text(source, encoding="utf-8")
    monkeypatch.setattr(registry, "_recipes", dict(registry._recipes))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("my_recipes", None)


def failure(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert main(list(arguments)) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and printed.count("\n") == 1
    return printed


def study_of(folder: Path, arms: list[dict[str, Any]]) -> Path:
    """A study of so many steps that whole steps of any arm meet the budget."""
    return small_study(folder, arms=arms, budget={"params": 6.0e4, "train_flops": 6.4e9})


def test_a_study_plans_a_recipe_by_its_import_path(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arms = [{"architecture": "my_recipes:Turns", "options": {"window": 8}}, {"architecture": "m2_gpt"}]
    assert main(["plan", str(study_of(folder, arms)), "--json"]) == 0
    arm = json.loads(capsys.readouterr().out)["arms"][0]
    assert (arm["name"], arm["architecture"]) == ("Turns", "my_recipes:Turns")
    assert abs(arm["deviation"]["params"]) <= 0.01


def test_the_file_of_a_recipe_is_part_of_the_identity_of_its_arm(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = study_of(folder, [{"architecture": "my_recipes:Turns"}, {"architecture": "m2_gpt"}])
    assert main(["plan", str(path), "--json"]) == 0
    own, built_in = (
        {Path(file).name for file in arm["code"]} for arm in json.loads(capsys.readouterr().out)["arms"]
    )
    assert "my_recipes.py" in own and "my_recipes.py" not in built_in


def test_the_cost_verb_takes_an_import_path(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cost", "my_recipes:Turns", *COST]) == 0
    parts = {part["name"]: part["count"] for part in json.loads(capsys.readouterr().out)["components"]}
    assert parts["layers.*.mixer"] == 4


def test_a_recipe_of_another_package_trains_a_model(folder: Path) -> None:
    from arch_lab.training.module import LanguageModel

    module = LanguageModel(
        architecture="my_recipes:Turns", width=32, depth=2, ffn_width=32, vocabulary=61, max_tokens=16
    )
    module(torch.zeros(1, 16, dtype=torch.long)).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("my_recipes:Turn", "module 'my_recipes' has no 'Turn'; did you mean 'Turns'?"),
        ("my_recipes:Shape", "it is not a registered recipe; decorate the class with"),
        ("my_recipe:Turns", "cannot import module 'my_recipe'"),
        ("my_recipes:", "expected an import path package.module:Class"),
    ],
)
def test_what_is_wrong_with_an_import_path_is_said_in_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], path: str, message: str
) -> None:
    assert message in failure(capsys, "cost", path, *COST)


def test_an_unknown_option_of_such_a_recipe_gets_the_nearest(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "did you mean 'window'" in failure(
        capsys, "cost", "my_recipes:Turns", "--options", "windw=3", *COST
    )


def test_an_installed_package_registers_names_of_its_own(folder: Path) -> None:
    info = folder / "my_recipes-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-recipes\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[arch_lab.recipes]\nturns = my_recipes\nbroken = no_such_module\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    command = [sys.executable, "-m", "arch_lab", "cost", "turns", *COST]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/")
    assert json.loads(done.stdout)["architecture"] == "turns"
    assert done.stderr.startswith(
        "warning: package entry broken = no_such_module of group arch_lab.recipes failed: "
    )


def test_a_name_or_kind_that_cannot_be_registered_is_refused(folder: Path) -> None:
    turns = recipe_class("my_recipes:Turns")
    with pytest.raises(
        ConfigError, match=r"the name is taken by arch_lab\.models\.gemma:Gemma3; choose another"
    ):
        register_architecture("gemma3", source="a test")(
            type("Gemma3", (turns,), {"__module__": "elsewhere"})
        )
    with pytest.raises(ConfigError, match=r"unknown kind 'decodr'; did you mean 'decoder'\?"):
        register_architecture("other", source="a test")(type("Other", (turns,), {"kind": "decodr"}))
    assert recipe("gemma3").name == "gemma3"


def test_a_recipe_without_config_is_refused_when_it_is_registered() -> None:
    with pytest.raises(ConfigError, match="does not define config, which a recipe must have"):
        register_architecture("empty", source="a test")(type("Empty", (registry.Recipe,), {}))
