"""What a throughput study found: study.json, results.csv, the verdict in words, TensorBoard scalars, the report.

study.json holds the plan's keys and ``rows`` (one a cell), ``ratios``, ``crossovers``, ``verdict``, ``warnings``,
``environment``, ``command``.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from arch_lab import files, sealed, units
from arch_lab.budget import Budget, BudgetError, check, deviations
from arch_lab.judge.crossover import crossovers, ratios, words
from arch_lab.study.environment import environment
from arch_lab.throughput.timing import MEASURED
from blocks.errors import UserError

REQUIRED = ("study", "budget", "tolerance", "arms", "rows", "ratios", "crossovers", "subject", "verdict")
COLUMNS = (
    *(
        "level",
        "mode",
        "tokens",
        "batch",
        "compiled",
        "arm",
        "status",
        "reason",
        "tokens_per_second",
        "ms",
        "ms_low",
        "ms_high",
    ),
    *(
        "peak_bytes",
        "state_bytes",
        "settled_bytes",
        "flops",
        "executed_flops",
        "gemm_rate",
        "mfu",
        "hfu",
        "parameters",
        "compile_seconds",
    ),
)
STATED = (1024, 4096, 16384)  # lengths whose ratios the verdict says, where they were measured
DRIFT = 1.5  # fastest over slowest GEMM rate of a study, above which its machine was not the same all along
MODES = ("forward", "step", "prefill", "decode")
LEVELS = ("mixer", "layer", "model")


def summarise(
    planned: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], *, command: str, clock: str
) -> dict[str, Any]:
    """The content of study.json."""
    pairs = ratios(rows, planned["subject"])
    crossings = crossovers(pairs)
    found = {
        **planned,
        "clock": clock,
        "rows": list(rows),
        "ratios": pairs,
        "crossovers": crossings,
        "warnings": _warnings(planned, rows),
        "environment": environment(),
        "command": command,
    }
    return {**found, "verdict": {"text": verdict(found)}}


def verdict(study: Mapping[str, Any]) -> str:
    """Ratios of whole models at the stated lengths, and their crossovers, peer by peer."""
    lines = []
    for peer in (arm["name"] for arm in study["arms"] if arm["name"] != study["subject"]):
        said = []
        ratios_here = [
            r for r in study["ratios"] if (r["level"], r["peer"], r["compiled"]) == ("model", peer, False)
        ]
        crossings_here = [
            c for c in study["crossovers"] if (c["level"], c["peer"], c["compiled"]) == ("model", peer, False)
        ]
        for mode in MODES:
            at = {r["tokens"]: r for r in ratios_here if r["mode"] == mode}
            if not at:
                continue
            shown = [t for t in STATED if t in at] or sorted({min(at), max(at)})
            values = " / ".join(f"{at[t]['ratio']:.2f}" for t in shown)
            found = next(c for c in crossings_here if c["mode"] == mode)
            said.append(
                f"{mode} {values} at {' / '.join(f'{t:,}' for t in shown)} tokens, faster from: {words(found)}"
            )
        if said:
            lines.append(f"{study['subject']} against {peer} (above 1 it is faster): {'; '.join(said)}.")
    if not lines:
        lines.append(
            "No two whole models were measured at the same length, so they cannot be compared; the tables show all measurements."
        )
    if not study["matched"]:
        lines.insert(0, "The parameters are not matched, so this is not a comparison at equal size.")
    return " ".join(lines)


def _warnings(planned: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    said = []
    rates = [row["gemm_rate"] for row in rows]
    if rates and max(rates) > DRIFT * min(rates):
        said.append(
            f"the GEMM rate of this machine varied between {units.short(min(rates), 'FLOP/s')} and {units.short(max(rates), 'FLOP/s')} "
            "during the study: ratios of interleaved pairs are valid, but times of different lengths are hard to compare; "
            "measure on an idle machine"
        )
    for arm in planned["arms"]:
        at = {int(t): n for t, n in arm["parameters_at"].items()}
        if len(set(at.values())) > 1:
            low, high = min(at), max(at)
            said.append(
                f"{arm['name']} has parameters for every position: {at[low]:,} in all at {low:,} tokens, {at[high]:,} at {high:,}; "
                f"the budget is met at {planned['match_length']:,}"
            )
    return said


# --- files ------------------------------------------------------------------------------------------------------------


def load(folder: Path) -> dict[str, Any]:
    """study.json of a throughput study, its budget checked again. Raises: UserError, BudgetError when arms are not matched."""
    path = Path(folder) / "study.json"
    study = sealed.read(path, advice="run `arch-lab compare` again to rewrite it")
    lacking = [key for key in REQUIRED if key not in study]
    if lacking:
        raise UserError(f"{path} lacks {', '.join(lacking[:3])}; run `arch-lab compare` again to rewrite it")
    budget = Budget.from_options(
        {**study["budget"], "tokens": 1, "tolerance": study["tolerance"]}, where="the stored budget"
    )
    misses = check([{**arm, "deviation": deviations(arm, study["budget"])} for arm in study["arms"]], budget)
    if misses and study.get("override") is not True:
        raise BudgetError(f"{path}: refused: {misses[0].text}; arms that are not matched are not compared")
    return {**study, "matched": not misses}


def write_results(folder: Path, study: dict[str, Any]) -> None:
    """study.json, results.csv and TensorBoard events."""
    sealed.write(folder / "study.json", study)
    files.write_text(folder / "results.csv", csv_text(study["rows"]))
    write_events(folder, study)


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, extrasaction="ignore", restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def write_events(folder: Path, study: Mapping[str, Any]) -> None:
    """Scalars over T, one folder an arm, so that TensorBoard overlays the arms. Calling it again replaces them."""
    from arch_lab.report.tensorboard import open_events

    for arm in study["arms"]:
        writer = open_events(folder / "tensorboard" / arm["name"], "throughput")
        for row in study["rows"]:
            if row["arm"] == arm["name"] and row["status"] == MEASURED:
                place = f"{row['level']}_{row['mode']}{'_compiled' if row['compiled'] else ''}"
                writer.add_scalar(f"tokens_per_second/{place}", row["tokens_per_second"], row["tokens"])
                if row["peak_bytes"] is not None:
                    writer.add_scalar(f"peak_mib/{place}", row["peak_bytes"] / 2**20, row["tokens"])
        writer.close()
