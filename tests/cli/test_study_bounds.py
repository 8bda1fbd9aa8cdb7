"""Values of study keys that mean nothing, through the command line: one line, and nothing is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from arch_lab.cli import main
from arch_lab.study.pretrained import pretrained_arms
from blocks.errors import ConfigError
from tests.small_study import small_study
from tests.study_fixture import write_study

REFUSED = [
    ("seeds=[-1]", "seeds[0]: must be at least 0, got -1"),
    ("seeds=[1099511627776]", "seeds[0]: must be at most 4,294,967,295"),
    ("seeds=[18446744073709551616]", "seeds[0]: must be at most 4,294,967,295"),
    ("seeds=[0,0]", "seeds: must not repeat 0"),
    ("seeds=[]", "seeds: must not be empty"),
    ("learning_rates=[1e308]", "learning_rates[0]: must be at most 1000, got '1e308'"),
    ("learning_rates=[.nan]", "learning_rates[0]: must be finite, got nan"),
    ("learning_rates=[0.004,0.0040000001]", "learning_rates: 2 of them print as 0.004"),
    ("learning_rates=[1" + "0" * 90 + "]", "learning_rates[0]: must be at most 1000"),
    ("training.weight_decay=-1", "training.weight_decay: must be at least 0, got -1"),
    ("training.beta1=1.5", "training.beta1: must be below 1, got 1.5"),
    ("training.beta2=1", "training.beta2: must be below 1, got 1"),
    ("training.batch_size=0", "training.batch_size: must be at least 1, got 0"),
    ("training.clip_norm=.inf", "training.clip_norm: must be finite, got inf"),
    ("widen=-5", "widen: must be at least 0, got -5"),
    ("budget.params=1e300", "budget.params: must be at most 10,000,000,000,000"),
    ("budget.tolerance=0.5", "budget.tolerance: must be at most 0.1, got 0.5"),
    ("data.tune_fraction=0.5", "data.tune_fraction: must be below 0.5, got 0.5"),
    ("arms.0.options.mixer=.x:y", "unknown option 'mixer'"),
    ("name=../../x", "name: must be letters, digits"),
    ("name=/tmp/x", "name: must be letters, digits"),
    ("name=.", "name: must be letters, digits"),
    ("name=", "name: expected text, got None"),
    ("name='a b'", "name: must be letters, digits"),
    ("name=" + "a" * 300, "name: must have at most 100 characters, not 300"),
    ('name="a\\n"', "name: must be letters, digits"),
    ('name="\\e[31m"', "name: must be letters, digits"),
    ('name="a\\0"', "name: must be letters, digits"),
    ("arms.0.name=../x", "arms[0].name: must be letters, digits"),
    ("arms.1.name=-rf", "arms[1].name: must be letters, digits"),
    ('description="\\e[31mred"', "description: must be text without control characters"),
    ("experiment=../x", "unknown experiment '../x'"),
]


@pytest.mark.parametrize(("override", "message"), REFUSED, ids=[override[:40] for override, _ in REFUSED])
def test_a_value_that_means_nothing_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, message: str
) -> None:
    study = small_study(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert (
        main(["compare", str(study), "--set", override, "--output", str(tmp_path / "runs"), "--quiet"]) == 2
    )
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_whose_name_is_no_study_name_gives_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = small_study(tmp_path, name="my study (2)")
    assert main(["plan", str(study), "--json"]) == 0
    assert '"study": "my_study__2_"' in capsys.readouterr().out


def test_a_misspelt_study_file_gets_the_nearest_in_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_study(tmp_path)
    assert main(["plan", str(tmp_path / "smal.yaml")]) == 2
    assert "not found; did you mean 'small.yaml'?" in capsys.readouterr().err


def test_a_pretrained_arm_whose_name_is_no_folder_name_is_refused(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "study", arms=("gemma3", "hybrid_<b>"))
    with pytest.raises(ConfigError, match="name of an arm: must be letters, digits"):
        pretrained_arms(folder, experiment="perplexity")
