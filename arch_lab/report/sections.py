"""The report's sections: each takes the study as written in study.json and returns HTML. Order and page: ``html``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from arch_lab import units
from arch_lab.judge.measures import measures
from arch_lab.judge.records import is_finite
from arch_lab.report.figures import style
from arch_lab.report.glossary import terms
from arch_lab.report.markup import Raw, flatten, items, join, paragraph, section, table, tag
from arch_lab.report.rows import better_than, diverged

Study = Mapping[str, Any]


def arm_label(study: Study, name: str) -> Raw:
    """The arm's name with its colour, the same square as in every figure."""
    names = [arm["name"] for arm in study["arms"]]
    colour = style(names.index(name))["color"] if name in names else "transparent"
    return tag("span", tag("span", class_="swatch", style=f"background:{colour}"), name, class_="arm")


def seeds_of(study: Study) -> list[int]:
    return sorted({r["seed"] for r in study["results"]})


def header(study: Study) -> Raw:
    seeds, arms = seeds_of(study), [arm["name"] for arm in study["arms"]]
    rates = {r["learning_rate"] for r in study["results"]}
    facts = f"Experiment {study['experiment']}: {units.words(arms)}; {units.counted(len(study['results']), 'run')}"
    facts += f" at {units.counted(len(rates), 'learning rate')} and {units.counted(len(seeds), 'seed')}"
    full = len(arms) * len(rates) * len(seeds)
    facts += " (not every seed at every rate)." if len(study["results"]) < full else "."
    found = len(study.get("warnings") or [])
    if found:
        facts = join([facts, " ", tag("a", f"{units.counted(found, 'warning')} below.", href="#warnings")])
    about = [paragraph(study["description"])] if study.get("description") else []
    parts = [
        tag("h1", f"Study: {study['study']}"),
        *about,
        paragraph(facts, kind="soft"),
        paragraph(study["verdict"]["text"], kind="verdict"),
    ]
    return join(parts)


def banner(study: Study) -> Raw:
    """Loud when the comparison is not one: empty otherwise."""
    if study.get("matched", True) and not study.get("override"):
        return Raw("")
    reason = "The budget check was overridden. " if study.get("override") else ""
    state = (
        "At least one arm misses the budget: "
        if not study.get("matched", True)
        else "All arms are within the tolerance, but "
    )
    advice = (
        "differences below may come from size or compute, not from the architecture."
        if not study.get("matched", True)
        else "it was not enforced."
    )
    misses = [m["text"] for m in study.get("misses") or [] if isinstance(m, Mapping) and m.get("text")]
    return join([paragraph(f"{reason}{state}{advice}", kind="banner"), items(misses) if misses else ""])


def budget(study: Study) -> Raw:
    target, tolerance, arms = study["budget"], study["tolerance"], study["arms"]
    axes = {
        "params": "parameters",
        "flops_per_token": "training FLOPs per token",
        "train_flops": "training FLOPs",
    }
    axes |= {"tokens": "training tokens", "seconds": "seconds of training, from steps timed in advance"}
    matched = [axis for axis in axes if is_finite(target.get(axis))]
    intro = (
        f"The budget of every arm is {units.budget_words(target)}, to be met within {100 * tolerance:g} %."
    )

    def column(name: str, cell: Any) -> list[Any]:
        return [name, *(cell(arm) for arm in arms)]

    rows = [
        column(
            f"deviation from the target: {axes[axis]}",
            lambda arm, axis=axis: _deviation(arm.get("deviation", {}).get(axis), tolerance),
        )
        for axis in matched
    ]
    groups = {
        "embedding": "embedding",
        "head": "head (0: shares the embedding)",
        "body": "body",
        "total": "total",
    }
    rows += [
        column(f"parameters: {label}", lambda arm, key=key: units.exact(arm["parameters"].get(key)))
        for key, label in groups.items()
    ]
    rows += [
        column(
            "width × depth, channel-mixer width",
            lambda arm: f"{arm['width']} × {arm['depth']}, {arm['ffn_width']}",
        )
    ]
    rows += [column("training FLOPs", lambda arm: units.short(arm["train_flops"], "FLOP"))]
    rows += [
        column("tokens", lambda arm: units.exact(arm["tokens"])),
        column("steps", lambda arm: units.exact(arm["steps"])),
    ]
    rows += [
        column("training FLOPs per token, exact", lambda arm: units.short(arm["flops_per_token"], "FLOP"))
    ]
    named = {"palm": "PaLM", "six_nd": "6ND", "kaplan": "Kaplan", "chinchilla": "Chinchilla"}
    rows += [
        column(f"… by the formula of {label}", lambda arm, key=key: _convention(arm, key))
        for key, label in named.items()
    ]
    if any(is_finite(arm.get("elementwise_per_token")) for arm in arms):
        rows += [
            column(
                "element-wise work per token, not in the budget",
                lambda arm: units.short(arm.get("elementwise_per_token"), "FLOP"),
            )
        ]
    for name in dict.fromkeys(name for arm in arms for name in arm.get("optimizer_groups") or {}):
        rows += [
            column(
                f"optimizer group “{name}”, parameters",
                lambda arm, name=name: units.exact(arm["optimizer_groups"].get(name)),
            )
        ]
    rows += [
        column(
            f"state bytes at {study['sequence_length']} tokens",
            lambda arm: units.memory(arm.get("state_bytes")),
        )
    ]
    options = [a for a in arms if a.get("options")]
    listed = [
        f"{a['name']}: {a['architecture']} with {', '.join(f'{k} = {v}' for k, v in a['options'].items())}"
        for a in options
    ]
    listed += [
        f"{a['name']} starts from the checkpoint {a['initialise_from']['path']}"
        for a in arms
        if a.get("initialise_from")
    ]
    heads = ["", *(arm_label(study, arm["name"]) for arm in arms)]
    shared = f"Every arm trains on batches of {study['batch_size']} sequences of {study['sequence_length']} tokens."
    training = [(k, _value(v)) for k, v in flatten(study.get("training") or {})]
    settings = (
        tag(
            "details",
            tag("summary", "Training settings, the same for every arm"),
            table(["setting", "value"], training, words=(0, 1)),
        )
        if training
        else ""
    )
    return section(
        "What was held equal",
        paragraph(intro),
        table(heads, rows),
        paragraph(shared, kind="soft"),
        items(listed) if listed else "",
        settings,
        anchor="budget",
    )


def _deviation(value: float | None, tolerance: float) -> Raw:
    if not is_finite(value):
        return Raw(units.DASH)
    inside = abs(value) <= tolerance  # type: ignore[arg-type]
    return tag("span", f"{'✓' if inside else '✗'} {units.percent(value)}", class_="good" if inside else "bad")


def _convention(arm: Mapping[str, Any], key: str) -> str:
    value = arm.get("conventions", {}).get(key)
    if not is_finite(value) or not arm["flops_per_token"]:
        return units.DASH
    return f"{units.short(value, 'FLOP')} ({100 * (value / arm['flops_per_token'] - 1):+.0f} %)"


def results(study: Study) -> Raw:
    rows: list[list[Any]] = []
    judged, *others = measures(study)
    for s in sorted(study["summary"], key=lambda s: (s[judged.key]["mean"] is None, s[judged.key]["mean"])):
        beats = units.words(better_than(study, s["arm"])) or "nothing shown"
        values = [tag("strong", units.plus_minus(s[judged.key])), *(units.bounded(s[m.key]) for m in others)]
        finished = f"{s[judged.key]['n']} of {len(seeds_of(study))}"
        rows.append([arm_label(study, s["arm"]), units.rate(s["learning_rate"]), *values, finished, beats])
    for b in study.get("baselines") or []:
        values = [units.number(b.get(m.key)) for m in (judged, *others)]
        rows.append([b["name"], "", *values, "", tag("span", "(baseline that only counts)", class_="soft")])
    heads = ["arm", "learning rate", *(m.label for m in (judged, *others)), "seeds finished", "better than"]
    note = (
        "Mean over seeds on the held-out split, at the learning rate chosen on the tuning split; ± and brackets are 95 %"
        " Student-t intervals (perplexities on the logarithm). Lower is better unless a column says otherwise."
        " “Better than” lists baselines outside the interval and arms"
        " whose paired difference is distinguishable."
    )
    if not study.get("baselines"):
        note += " This study measured no count-based baselines."
    return section(
        "Results",
        table(heads, rows, words=(0, len(heads) - 1), kind="results"),
        paragraph(note, kind="soft"),
        anchor="results",
    )


def runs(study: Study) -> Raw:
    """Every run that was made; a diverged one is marked, never hidden."""
    rows: list[list[Any]] = []
    judged, second, *_ = (*measures(study), None)
    for r in sorted(study["results"], key=lambda r: (r["arm"], r["learning_rate"], r["seed"])):
        chosen = " (chosen)" if study["selected"].get(r["arm"]) == r["learning_rate"] else ""
        status = tag("span", f"✗ {r['status']}", class_="bad") if diverged(r, judged) else r["status"]
        scores = [units.number(r.get(judged.key), 5), units.number(r.get(judged.tuned), 5)]
        scores += [units.number(r.get(second.key))] if second else []
        speed = [
            units.short(r.get("tokens_per_second")),
            units.memory(r.get("peak_memory_bytes")),
            units.duration(r.get("seconds")),
        ]
        rows.append(
            [
                arm_label(study, r["arm"]),
                f"{units.rate(r['learning_rate'])}{chosen}",
                r["seed"],
                status,
                *scores,
                *speed,
            ]
        )
    heads = [
        "arm",
        "learning rate",
        "seed",
        "status",
        judged.name,
        f"tuning {judged.name}",
        *([second.label] if second else []),
        "tokens/s",
        "peak memory",
        "time",
    ]
    lost = sum(diverged(r, judged) for r in study["results"])
    count = f"{units.counted(len(rows), 'run')}, {lost} of them diverged."
    return section("Every run", paragraph(count), table(heads, rows, words=(0, 3)), anchor="runs")


def warnings(study: Study) -> Raw:
    found = study.get("warnings") or []
    return section("Warnings", items(found) if found else paragraph("No warnings."), anchor="warnings")


def data(study: Study) -> Raw:
    summary = study.get("data") or {}
    nested = summary["splits"] if isinstance(summary.get("splits"), Mapping) else summary
    splits = {k: v for k, v in nested.items() if isinstance(v, Mapping) and "tokens" in v}
    columns = list(dict.fromkeys(key for split in splits.values() for key in split))
    parts: list[Any] = []
    plain = [
        (k, _value(v))
        for k, v in flatten({k: v for k, v in summary.items() if k not in splits and k != "splits"})
    ]
    if plain:
        parts.append(table(["entry", "value"], plain, words=(0, 1), kind="wrap"))
    if splits:
        parts.append(
            table(
                ["split", *columns],
                [[name, *(_value(split.get(c)) for c in columns)] for name, split in splits.items()],
            )
        )
    return section("Data", *parts or [paragraph("No summary was recorded.")], anchor="data")


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return units.DASH if value is None else str(value).lower()
    if isinstance(value, int):
        return units.exact(value)
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def reproduce(study: Study, folder: str, study_yaml: str | None) -> Raw:
    environment = study.get("environment") or {}
    command = study.get("command") or environment.get("command") or f"arch-lab compare {folder}/study.yaml"
    commit = str(environment.get("commit") or "")
    # a commit that ends in "+" had changes on top which nobody else has
    lines = ([f"git checkout {commit.rstrip('+')}"] if commit else []) + [command]
    rows = [(key, _value(value)) for key, value in flatten(environment)]
    parts: list[Any] = [tag("pre", tag("code", "\n".join(lines)))]
    if commit.endswith("+"):
        parts.append(
            paragraph(
                "The checkout had uncommitted changes, so the commit alone may not give the same numbers.",
                kind="bad",
            )
        )
    if study_yaml:
        parts.append(
            tag("details", tag("summary", "study.yaml as it ran"), tag("pre", tag("code", study_yaml)))
        )
    return section(
        "Environment and how to reproduce",
        *parts,
        table(["", "value"], rows, words=(0, 1), kind="wrap") if rows else "",
        anchor="reproduce",
    )


def glossary(study: Study) -> Raw:
    entries = [
        tag("dt", term) + tag("dd", meaning)
        for term, meaning in terms([m.name for m in measures(study)]).items()
    ]
    return section("Glossary", tag("dl", *map(Raw, entries)), anchor="glossary")
