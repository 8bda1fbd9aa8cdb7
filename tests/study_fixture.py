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
from arch_lab.judge.measures import PERPLEXITY
from arch_lab.study.judgement import judge

BASELINES = [
    {"name": "unigram", "bits_per_byte": 3.352, "perplexity": 561.0, "word_perplexity": 1.1e6},
    {"name": "bigram", "bits_per_byte": 2.476, "perplexity": 107.0, "word_perplexity": 2.9e4},
    {"name": "trigram", "bits_per_byte": 2.104, "perplexity": 53.0, "word_perplexity": 6.2e3},
]
VOCABULARY, TOKENS_PER_STEP, TRAIN_FLOPS = 1024, 4096, 12e12
BYTES_PER_TOKEN = 2.7
# name -> (architecture, loss offset in bits per byte, tokens/s, best log2 learning rate)
ARMS = {
    "gemma3": ("gemma3", 0.000, 21_500.0, -8.0),
    "m2_gpt": ("m2_gpt", 0.041, 15_200.0, -9.0),
    "gemma1": ("gemma1", 0.006, 22_900.0, -8.0),
    "hybrid_<b>": ("custom", 0.020, 18_000.0, -8.5),
}


def arm_entry(name: str, *, deviation: float = 0.0017) -> dict[str, Any]:
    architecture = ARMS[name][0]
    width, depth = (96, 8) if architecture != "m2_gpt" else (112, 9)
    embedding, body, mixer_share = VOCABULARY * width, round(1_000_000 * (1 + deviation)), 0.4
    flops_per_token = 6 * (body + embedding) + (
        12 * depth * width * 64 if architecture != "m2_gpt" else 6 * depth * width * 300
    )
    mixer = round(body * mixer_share)
    extra = flops_per_token - 6 * (body + embedding)  # what the sequence mixer does beside its weights
    parts = [
        ("embedding", embedding, 0),
        ("sequence mixer", mixer, 6 * mixer + extra),
        ("channel mixer", body - mixer - 3456, 6 * (body - mixer - 3456)),
    ]
    parts += [("norms", 3456, 6 * 3456), ("head", 0, 6 * embedding)]
    components = [{"name": n, "parameters": p, "flops_per_token": f} for n, p, f in parts]
    steps = round(TRAIN_FLOPS / flops_per_token / TOKENS_PER_STEP)
    tokens = TOKENS_PER_STEP * steps
    return {
        "name": name,
        "architecture": architecture,
        "options": {"window": 64} if architecture == "gemma3" else {},
        "width": width,
        "depth": depth,
        "ffn_width": 4 * width,
        "parameters": {"embedding": embedding, "head": 0, "body": body, "total": body + embedding},
        "flops_per_token": flops_per_token,
        "train_flops": flops_per_token * tokens,
        "tokens": tokens,
        "steps": steps,
        "components": components,
        "conventions": {
            "palm": round(flops_per_token * 1.09),
            "six_nd": 6 * (body + embedding),
            "kaplan": 6 * body,
            "chinchilla": round(flops_per_token * 1.44),
        },
        "state_bytes": 4 * depth * width * (64 if architecture != "m2_gpt" else 128) * 2,
        "deviation": {"params": deviation, "train_flops": flops_per_token * tokens / TRAIN_FLOPS - 1},
    }


def result_entry(arm: dict[str, Any], learning_rate: float, seed: int, diverged: bool) -> dict[str, Any]:
    _, offset, speed, best = ARMS[arm["name"]]
    noise = np.random.default_rng([seed, int(offset * 1000)]).normal(0, 0.0025)
    bits = 1.93 + offset + 0.035 * (math.log2(learning_rate) - best) ** 2 + noise + 0.004 * seed
    seconds = arm["tokens"] / speed
    measured = {
        "bits_per_byte": bits,
        "perplexity": 2 ** (bits * BYTES_PER_TOKEN),
        "word_perplexity": 2 ** (bits * 5.9),
        "tune_bits_per_byte": bits - 0.02,
        "tokens_per_second": speed * (1 + 0.01 * seed),
        "peak_memory_bytes": 410 * 2**20 + seed,
        "tokens": arm["tokens"],
        "steps": arm["steps"],
        "flops": float(arm["train_flops"]),
        "seconds": seconds,
    }
    head = {
        "arm": arm["name"],
        "architecture": arm["architecture"],
        "learning_rate": learning_rate,
        "seed": seed,
    }
    return {
        **head,
        "status": "diverged" if diverged else "finished",
        **(dict.fromkeys(measured) if diverged else measured),
    }


def metric_lines(arm: dict[str, Any], result: dict[str, Any], every: int = 4) -> list[dict[str, Any]]:
    """A loss curve that ends at the run's tuning loss; a diverged one breaks off in NaN after a third of the steps."""
    noise = np.random.default_rng(result["seed"])
    final = result["tune_bits_per_byte"] or 2.2
    seconds = result["seconds"] or 80.0
    lines: list[dict[str, Any]] = []
    for step in range(every, arm["steps"] + 1, every):
        share = step / arm["steps"]
        bits = final + 1.7 * math.exp(-6 * share) + 0.35 * (1 - share)
        at = {
            "step": step,
            "tokens": step * TOKENS_PER_STEP,
            "flops": arm["train_flops"] * share,
            "seconds": seconds * share,
        }
        broken = result["status"] == "diverged" and share > 1 / 3
        loss = float("nan") if broken else (bits + noise.normal(0, 0.04)) * BYTES_PER_TOKEN * math.log(2)
        lines.append(
            {
                **at,
                "train_loss": loss,
                "learning_rate": result["learning_rate"] * (1 - share),
                "gradient_norm": 1 + share,
            }
        )
        if broken:
            break
        if step % 40 == 0:
            lines.append({**at, "tune_bits_per_byte": bits})
    return lines


def run_folder(study: Path, result: dict[str, Any]) -> Path:
    return study / "runs" / result["arm"] / f"lr-{result['learning_rate']:g}_seed-{result['seed']}"


def write_study(
    folder: Path,
    arms: tuple[str, ...] = ("gemma3", "m2_gpt"),
    seeds: int = 3,
    exponents: tuple[int, ...] = (-10, -9, -8, -7, -6),
    diverged: tuple[tuple[str, int, int], ...] = (("m2_gpt", -6, 0), ("m2_gpt", -6, 1), ("m2_gpt", -6, 2)),
    baselines: bool = True,
    deviation: float = 0.0017,
    name: str = "quickstart",
    without_metrics: tuple[str, ...] = (),
) -> Path:
    """Writes the folder and returns it. ``diverged`` names runs as (arm, log2 of the learning rate, seed)."""
    entries = [arm_entry(arm, deviation=deviation if i else 0.0009) for i, arm in enumerate(arms)]
    results = [
        result_entry(a, 2.0**e, s, (a["name"], e, s) in diverged)
        for a in entries
        for e in exponents
        for s in range(seeds)
    ]
    known = BASELINES if baselines else []
    matched = abs(deviation) <= 0.01
    study = {
        "study": name,
        "experiment": "perplexity",
        "budget": {"params": 1_000_000, "train_flops": TRAIN_FLOPS, "tokens": None, "match_on": "body+head"},
        "tolerance": 0.01,
        "matched": matched,
        "sequence_length": 128,
        "batch_size": TOKENS_PER_STEP // 128,
        "arms": entries,
        "results": results,
        "baselines": known,
        **judge(
            results, arms, PERPLEXITY, known, budget="1M parameters and 12 TFLOP of training", matched=matched
        ),
        "data": {
            "source": "embedded",
            "tokenizer": {"kind": "bpe", "vocabulary": 1024},
            "splits": {
                "train": {
                    "tokens": 1_800_000,
                    "bytes": 4_860_000,
                    "words": 810_000,
                    "documents": 2410,
                    "fingerprint": "3f9a1c",
                },
                "tune": {
                    "tokens": 90_000,
                    "bytes": 243_000,
                    "words": 40_500,
                    "documents": 121,
                    "fingerprint": "77b0e2",
                },
                "validation": {
                    "tokens": 91_000,
                    "bytes": 245_700,
                    "words": 40_900,
                    "documents": 120,
                    "fingerprint": "c41d90",
                },
            },
        },
        "environment": {
            "python": "3.11.8",
            "torch": "2.13.0+cpu",
            "platform": "Linux x86_64",
            "cpu": "a processor",
            "threads": 2,
            "commit": "0123456789abcdef",
            "date": "2026-01-31T12:00:00",
            "arch_lab": "0.1.0",
        },
        "override": not matched,
        "description": "Gemma 3 against Monarch Mixer on prose",
        "training": {"precision": "32-true", "weight_decay": 0.1, "warmup_fraction": 0.1},
        "misses": [] if matched else [{"text": "arm 'm2_gpt' is +3.00% off the budget on params"}],
    }
    folder.mkdir(parents=True, exist_ok=True)
    sealed.write(folder / "study.json", study)
    (folder / "study.yaml").write_text("experiment: perplexity\nseeds: 3\n# <script>alert(1)</script>\n")
    by_name = {a["name"]: a for a in entries}
    for result in results:
        run = run_folder(folder, result)
        run.mkdir(parents=True)
        (run / "result.json").write_text(json.dumps(result))
        if result["arm"] not in without_metrics:
            lines = metric_lines(by_name[result["arm"]], result)
            (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
