"""Damaged study files through ``arch-lab plan``: one line or a plan, quickly, and nothing written elsewhere."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import yaml

from tests.mutations import answer, damaged_bytes, damaged_tree, seeds

STUDY = """\
description: a small study
experiment: perplexity
arms:
  - {architecture: gemma3, options: {window: 16, pattern: LG}}
  - {name: fixed, architecture: m2_gpt, shape: {width: 32, depth: 2, ffn_width: 64}}
budget: {params: 5.0e+4, train_flops: 1.0e+9, tolerance: 0.05, allow_unmatched: true}
data: {source: embedded, tokenizer: {kind: bpe, vocabulary: 512}}
training:
  sequence_length: 32
  batch_size: 2
  beta2: 0.95
  groups: [{name: filters, match: ["*.filter.*"], rate: 0.1}]
learning_rates: [0.004, 0.008]
seeds: [0, 1]
tuning_seeds: [0]
"""
ODD_LINES = (
    "seeds: [0]", "  <<: *a", "x: &a [*a, *a]", "? [a]", "- 1", "\t", "---", "%YAML 9", "name: ../../x", "1: 2", "null: 3", "yes: no",
    "seeds: [2026-99-99]", "widen: 1:30", "seeds: !!python/tuple [1]", "name: !!str 5", "name: \"\\x1b[31m\\0\"", "budget: {params: 1e300}",
    "training: {batch_size: " + "9" * 5000 + "}", "arms: " + "[" * 3000, "a: &a {b: 1}\nc: &c {<<: [*a, *a, *a]}", "experiment: .x",
    "arms: [{architecture: custom, options: {mixer: '.x:y'}}]", "arms: [{architecture: custom, options: {mixer: 'no_such:Thing'}}]",
    "learning_rates: [0.004, 0.0040000001]", "seeds: [1.0e+400]", "description: " + "x" * 20_000, "objective: {a: 1}",
)  # fmt: skip


def damaged_study(draw: random.Random) -> bytes:
    """The study with bytes, values or whole lines changed."""
    kind = draw.choice(("bytes", "tree", "tree", "lines"))
    if kind == "bytes":
        return damaged_bytes(STUDY.encode(), draw)
    if kind == "tree":
        text = json.dumps(damaged_tree(yaml.safe_load(STUDY), draw))  # JSON is YAML but for these
        return text.replace("NaN", ".nan").replace("Infinity", ".inf").replace("1e+308", "1.0e+308").encode()
    lines = STUDY.splitlines()
    for _ in range(draw.choice((1, 2))):
        lines.insert(draw.randrange(len(lines) + 1), draw.choice(ODD_LINES))
    return "\n".join(lines).encode()


def plan_damaged(folder: Path, seed: str) -> None:
    (folder / "study.yaml").write_bytes(damaged_study(random.Random(seed)))
    answer(["plan", "study.yaml", "--json"], folder, seed=seed)


def test_a_damaged_study_ends_in_one_line_or_a_plan(tmp_path: Path) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    for seed in seeds(150, "study"):
        plan_damaged(folder, seed)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_many_damaged_studies_end_in_one_line_or_a_plan(tmp_path: Path, part: int) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    for seed in seeds(80, f"study {part}"):
        plan_damaged(folder, seed)
