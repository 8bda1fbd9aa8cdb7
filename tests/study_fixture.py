"""A study folder that looks like a real one but trained nothing: numbers from closed formulas, files as on disk.

Only the measurements are invented; selection, summary, verdict and warnings come from the library itself, so a test
that reads them reads what a real study would hold.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from arch_lab import sealed
from arch_lab.accounting.ledger import Component
from arch_lab.budget import Miss
from arch_lab.judge.judge import judge
from arch_lab.judge.measures import Measure, Task
from arch_lab.judge.records import Baseline, Record
from arch_lab.study.plan import Plan, PlannedArm
from arch_lab.study.study import Study, study_of
from arch_lab.study.trial import Trial
from arch_lab.units import budget_words

MEASURES = (
    Measure(key="bits_per_byte", name="bits per byte", meaning="Bits that one byte of unseen text takes."),
    Measure(key="perplexity", name="token perplexity", short="token ppl", logarithmic=True),
    Measure(key="word_perplexity", name="word perplexity", short="word ppl", logarithmic=True),
)
BASELINES = tuple(
    Baseline(name=name, scores={"bits_per_byte": bits, "perplexity": tokens, "word_perplexity": words})
    for name, bits, tokens, words in (
        ("unigram", 3.352, 561.0, 1.1e6),
        ("bigram", 2.476, 107.0, 2.9e4),
        ("trigram", 2.104, 53.0, 6.2e3),
    )
)
VOCABULARY, TOKENS_PER_STEP, TRAIN_FLOPS = 1024, 4096, 12e12
BYTES_PER_TOKEN = 2.7
# name -> (architecture, loss offset in bits per byte, tokens/s, best log2 learning rate)
ARMS = {
    "gemma3": ("gemma3", 0.000, 21_500.0, -8.0),
    "m2_gpt": ("m2_gpt", 0.041, 15_200.0, -9.0),
    "gemma1": ("gemma1", 0.006, 22_900.0, -8.0),
    "hybrid_<b>": ("custom", 0.020, 18_000.0, -8.5),
}
SPLITS = {
    "train": {"tokens": 1_800_000, "bytes": 4_860_000, "words": 810_000, "documents": 2410},
    "tune": {"tokens": 90_000, "bytes": 243_000, "words": 40_500, "documents": 121},
    "validation": {"tokens": 91_000, "bytes": 245_700, "words": 40_900, "documents": 120},
}
DATA = {"source": "embedded", "tokenizer": {"kind": "bpe", "vocabulary": 1024}, "splits": SPLITS}
ENVIRONMENT = {
    "python": "3.11.8",
    "torch": "2.13.0+cpu",
    "platform": "Linux x86_64",
    "cpu": "a processor",
    "threads": 2,
    "commit": "0123456789abcdef",
    "date": "2026-01-31T12:00:00",
    "arch_lab": "0.1.0",
}


def component(name: str, parameters: int, flops: float) -> Component:
    return Component(
        name=name,
        parameters=parameters,
        flops_per_token=flops,
        count=1,
        matmul=flops,
        fft=0.0,
        elementwise=0.0,
    )


def planned_arm(name: str, *, deviation: float = 0.0017) -> PlannedArm:
    architecture = ARMS[name][0]
    attends = architecture != "m2_gpt"
    width, depth = (96, 8) if attends else (112, 9)
    embedding, body = VOCABULARY * width, round(1_000_000 * (1 + deviation))
    extra = (
        12 * depth * width * 64 if attends else 6 * depth * width * 300
    )  # of the mixer, beside its weights
    flops_per_token = 6 * (body + embedding) + extra
    mixer = round(body * 0.4)
    components = (
        component("embedding", embedding, 0),
        component("sequence mixer", mixer, 6 * mixer + extra),
        component("channel mixer", body - mixer - 3456, 6 * (body - mixer - 3456)),
        component("norms", 3456, 6 * 3456),
        component("head", 0, 6 * embedding),
    )
    steps = round(TRAIN_FLOPS / flops_per_token / TOKENS_PER_STEP)
    tokens = TOKENS_PER_STEP * steps
    return PlannedArm(
        name=name,
        architecture=architecture,
        options={"window": 64} if architecture == "gemma3" else {},
        width=width,
        depth=depth,
        ffn_width=4 * width,
        parameters={"embedding": embedding, "head": 0, "body": body, "total": body + embedding},
        flops_per_token=flops_per_token,
        train_flops=flops_per_token * tokens,
        tokens=tokens,
        steps=steps,
        components=components,
        conventions={
            "palm": round(flops_per_token * 1.09),
            "six_nd": 6 * (body + embedding),
            "kaplan": 6 * body,
            "chinchilla": round(flops_per_token * 1.44),
        },
        state_bytes=4 * depth * width * (64 if attends else 128) * 2,
        deviation={"params": deviation, "train_flops": flops_per_token * tokens / TRAIN_FLOPS - 1},
    )


def record_of(arm: PlannedArm, learning_rate: float, seed: int, diverged: bool) -> Record:
    trial: dict[str, Any] = {"arm": arm.name, "learning_rate": learning_rate, "seed": seed}
    if diverged:
        return Record(**trial, status="diverged")
    _, offset, speed, best = ARMS[arm.name]
    noise = np.random.default_rng([seed, int(offset * 1000)]).normal(0, 0.0025)
    bits = float(1.93 + offset + 0.035 * (math.log2(learning_rate) - best) ** 2 + noise + 0.004 * seed)
    return Record(
        **trial,
        tuned=bits - 0.02,
        scores={
            "bits_per_byte": bits,
            "perplexity": 2 ** (bits * BYTES_PER_TOKEN),
            "word_perplexity": 2 ** (bits * 5.9),
        },
        tokens_per_second=speed * (1 + 0.01 * seed),
        peak_memory_bytes=410 * 2**20 + seed,
        tokens=arm.tokens,
        steps=arm.steps,
        flops=float(arm.train_flops or 0),
        seconds=(arm.tokens or 0) / speed,
    )


def metric_lines(arm: PlannedArm, record: Record, every: int = 4) -> list[dict[str, Any]]:
    """A loss curve that ends at the run's tuning loss; a diverged one breaks off in NaN after a third of the steps."""
    assert arm.steps and arm.train_flops and record.learning_rate
    noise = np.random.default_rng(record.seed)
    final, seconds = record.tuned or 2.2, record.seconds or 80.0
    lines: list[dict[str, Any]] = []
    for step in range(every, arm.steps + 1, every):
        share = step / arm.steps
        bits = final + 1.7 * math.exp(-6 * share) + 0.35 * (1 - share)
        axes = {
            "step": step,
            "tokens": step * TOKENS_PER_STEP,
            "flops": arm.train_flops * share,
            "seconds": seconds * share,
        }
        broken = record.status == "diverged" and share > 1 / 3
        loss = float("nan") if broken else (bits + noise.normal(0, 0.04)) * BYTES_PER_TOKEN * math.log(2)
        rate = record.learning_rate * (1 - share)
        lines.append({**axes, "train_loss": loss, "learning_rate": rate, "gradient_norm": 1 + share})
        if broken:
            break
        if step % 40 == 0:
            lines.append({**axes, "tune_bits_per_byte": bits})
    return lines


def run_folder(study: Path, record: Record) -> Path:
    return Trial(arm=record.arm, learning_rate=record.learning_rate, seed=record.seed).folder(study)


def make_study(
    arms: tuple[str, ...] = ("gemma3", "m2_gpt"),
    seeds: int = 3,
    exponents: tuple[int, ...] = (-10, -9, -8, -7, -6),
    diverged: tuple[tuple[str, int, int], ...] = (("m2_gpt", -6, 0), ("m2_gpt", -6, 1), ("m2_gpt", -6, 2)),
    baselines: bool = True,
    deviation: float = 0.0017,
    name: str = "quickstart",
) -> Study:
    """``diverged`` names runs as (arm, log2 of the learning rate, seed)."""
    planned = tuple(planned_arm(arm, deviation=deviation if i else 0.0009) for i, arm in enumerate(arms))
    records = [
        record_of(a, 2.0**e, s, (a.name, e, s) in diverged)
        for a in planned
        for e in exponents
        for s in range(seeds)
    ]
    matched = abs(deviation) <= 0.01
    miss = Miss(
        arm=arms[-1],
        axis="params",
        deviation=deviation,
        text=f"arm {arms[-1]!r} is {deviation:+.2%} off the budget on params",
    )
    plan = Plan(
        study=name,
        experiment="perplexity",
        description="Gemma 3 against Monarch Mixer on prose",
        tasks=(Task(measures=MEASURES),),
        arms=planned,
        budget={"params": 1_000_000, "train_flops": TRAIN_FLOPS, "tokens": None, "match_on": "body+head"},
        tolerance=0.01,
        matched=matched,
        override=not matched,
        misses=() if matched else (miss,),
        vocabulary=VOCABULARY,
        sequence_length=128,
        batch_size=TOKENS_PER_STEP // 128,
        training={"precision": "32-true", "weight_decay": 0.1, "warmup_fraction": 0.1},
        learning_rates=tuple(2.0**e for e in exponents),
        seeds=tuple(range(seeds)),
        tuning_seeds=tuple(range(seeds)),
        trials=len(records),
    )
    scored = BASELINES if baselines else ()
    budget = budget_words(plan.budget)
    judgement = judge(records, plan.tasks, planned, scored, budget=budget, matched=matched)
    return study_of(plan, judgement, records, baselines=scored, data=DATA, environment=ENVIRONMENT)


def write_study(folder: Path, *, without_metrics: tuple[str, ...] = (), **options: Any) -> Path:
    """Write the study of ``options`` (see make_study) with its runs into ``folder``, and return the folder.

    ``without_metrics``: arms whose runs leave no curve.
    """
    study = make_study(**options)
    folder.mkdir(parents=True, exist_ok=True)
    sealed.write(folder / "study.json", study.to_json())
    (folder / "study.yaml").write_text("experiment: perplexity\nseeds: 3\n# <script>alert(1)</script>\n")
    for record in study.results:
        run = run_folder(folder, record)
        run.mkdir(parents=True)
        (run / "result.json").write_text(json.dumps(record.to_json()))
        if record.arm not in without_metrics:
            lines = metric_lines(study.arm(record.arm), record)
            (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
