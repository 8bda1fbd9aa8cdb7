"""Tables of what a study compares and on what.

Arms, sizes, costs, tasks, data, environment. A plan has most of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from arch_lab import units
from arch_lab.judge.records import is_finite
from arch_lab.judge.regime import TOKENS_PER_PARAMETER, Regime
from arch_lab.report.section import ARM, BAD, GOOD, Cell, Table, Value
from arch_lab.report.tables import fact
from arch_lab.stored import Facts, flatten
from arch_lab.study.plan import Plan, PlannedArm
from arch_lab.study.study import Study

GROUPS = ("embedding", "head", "body", "total")  # of parameters
SPENT = ("train_flops", "tokens", "seconds", "flops_per_token")  # budget axes of training
FORMULAS = {"palm": "PaLM", "six_nd": "6ND", "kaplan": "Kaplan", "chinchilla": "Chinchilla"}


def trains_models(plan: Plan) -> bool:
    """Whether its arms are architectures that are trained: they have a size and a cost."""
    return any(arm.train_flops for arm in plan.models)


def sized(plan: Plan) -> Table:
    """Every model of a study with sizes: what it is, how long it trains, and how far from the compute-optimal size."""
    rows: list[list[Value]] = []
    for model in plan.models:
        task: list[Value] = [model.tasks[0]] if model.tasks else []
        shape = f"{model.width} × {model.depth}, {model.ffn_width}"
        total, state = model.parameters.get("total"), units.memory(model.state_bytes)
        off = _deviation(model.deviation.get("train_flops"), plan.tolerance)
        counts: list[Value] = [
            _prefixed(total, digits=4),
            Cell(state, value=model.state_bytes),
            _prefixed(model.tokens),
        ]
        r = model.regime
        assert r is not None
        near = Cell(f"{r.ratio:.2g} ×", BAD if r.is_far else GOOD, value=r.ratio)
        place: list[Value] = [_prefixed(r.size), f"{r.tokens_per_parameter:.3g}", near]
        place += _over_fitted(plan, _arm_of(plan, model), r, model.train_flops)
        rows.append([*task, Cell(model.name, ARM), shape, *counts, units.exact(model.steps), off, *place])
    first = ["budget"] if plan.has_tasks else []
    heads = [*first, "model", "width × depth, ffn", "parameters", "state", "tokens", "steps", "off budget"]
    heads += ["n_eff", "tokens per n_eff", "over optimal", *_fitted_heads(plan)]
    note = (
        f"n_eff = training FLOPs per token / 6; optimal by the rule of {TOKENS_PER_PARAMETER} tokens per parameter; "
        f"state = memory per sequence while generating at {plan.sequence_length} tokens{_fitted_note(plan)}"
    )
    drop = ("state", "off budget", "parameters")
    return Table(
        title="sizes", headers=heads, rows=rows, note=note, text_columns=range(len(first) + 1), drop=drop
    )


def size(plan: Plan) -> Table:
    rows: list[list[Value]] = []
    for arm in plan.arms:
        counts = [_prefixed(arm.parameters.get(group), digits=4) for group in GROUPS]
        shape = f"{arm.width} × {arm.depth}, {arm.ffn_width}"
        rows.append(
            [Cell(arm.name, ARM), shape, *counts, _deviation(arm.deviation.get("params"), plan.tolerance)]
        )
    heads = ["arm", "width × depth, ffn", *GROUPS, "off budget"]
    return Table(title="size", headers=heads, rows=rows, note="parameters")


def cost(plan: Plan) -> Table:
    """What training costs. Of a study: as measured; of a plan: as estimated."""
    study = plan if isinstance(plan, Study) else None
    rows: list[list[Value]] = []
    for arm in plan.arms:
        spent = [arm.deviation[axis] for axis in SPENT if axis in arm.deviation]
        counts: list[Value] = [_prefixed(arm.flops_per_token), _prefixed(arm.tokens)]
        counts += [units.exact(arm.steps), _prefixed(arm.train_flops)]
        off = _deviation(max(spent, key=abs, default=None), plan.tolerance)
        state = Cell(units.memory(arm.state_bytes), value=arm.state_bytes)
        speed = _estimated(arm) if study is None else _measured(study, arm)
        rows.append([Cell(arm.name, ARM), *counts, off, state, *speed])
    last = ["run, about", "memory, about"] if study is None else ["tokens per s", "peak memory"]
    heads = ["arm", "FLOPs per token", "tokens", "steps", "training FLOPs", "off budget", "state", *last]
    at = f" at {plan.sequence_length} tokens" if plan.sequence_length else ""
    note = f"training, exact count; state = memory per sequence while generating{at}"
    return Table(title="cost", headers=heads, rows=rows, note=note)


def regime(plan: Plan) -> Table:
    """Where each arm trains: its size by FLOPs, tokens per parameter, and the compute-optimal size."""
    rows: list[list[Value]] = []
    for arm in plan.arms:
        if (r := arm.regime) is None:
            continue
        near = Cell(f"{r.ratio:.2g} ×", BAD if r.is_far else GOOD, value=r.ratio)
        counts = [_prefixed(r.size), Cell(f"{r.tokens_per_parameter:.3g}", value=r.tokens_per_parameter)]
        fitted = _over_fitted(plan, arm.name, r, arm.train_flops)
        rows.append([Cell(arm.name, ARM), *counts, _prefixed(r.best_size), near, *fitted])
    heads = ["arm", "n_eff", "tokens per parameter", "compute-optimal n_eff", "size over it"]
    heads += _fitted_heads(plan)
    note = f"n_eff = training FLOPs per token / 6; optimal by the rule of {TOKENS_PER_PARAMETER} tokens per parameter"
    note += _fitted_note(plan)
    return Table(title="regime", headers=heads, rows=rows, note=note)


def _arm_of(plan: Plan, model: PlannedArm) -> str:
    return next(arm for arm, own in plan.sizes.items() if model in own)


def _fitted_heads(plan: Plan) -> list[str]:
    return [] if plan.rule is None else ["over fitted"]


def _fitted_note(plan: Plan) -> str:
    return "" if plan.rule is None else f"; fitted: the optimum by the laws of {plan.rule.source}"


def _over_fitted(plan: Plan, arm: str, regime: Regime, flops: float | None) -> list[Value]:
    """Size over the optimum by the laws of an earlier study, where there are any."""
    if plan.rule is None:
        return []
    best = plan.rule.best_size(arm, float(flops or 0))
    return [None if not best else Cell(f"{regime.size / best:.2g} ×", value=regime.size / best)]


def _estimated(arm: PlannedArm) -> list[Value]:
    if arm.estimate is None:
        return [None, None]
    return [units.duration(arm.estimate.seconds_per_trial), units.memory(arm.estimate.memory_bytes)]


def _measured(study: Study, arm: PlannedArm) -> list[Value]:
    standing = study.standing(arm.name)
    if standing is None:
        return [None, None]
    peak = Cell(units.memory(standing.peak_memory_bytes), value=standing.peak_memory_bytes)
    return [_prefixed(standing.tokens_per_second), peak]


def _prefixed(value: float | None, digits: int = 3) -> Cell:
    return Cell(units.short(value, digits=digits), value=value)


def _deviation(value: float | None, tolerance: float | None) -> Cell:
    if value is None or not is_finite(value):
        return Cell(units.DASH)
    is_within = tolerance is None or abs(value) <= tolerance
    return Cell(
        f"{'✓' if is_within else '✗'} {units.percent(value)}", GOOD if is_within else BAD, value=value
    )


def conventions(plan: Plan) -> Table:
    """Training FLOPs per token as counted, and by the formulas of papers."""
    rows = []
    for arm in plan.shapes:
        exact = arm.flops_per_token
        formulas = [_convention(arm.conventions.get(key), exact) for key in FORMULAS]
        counts = [Cell(units.short(exact, "FLOP"), value=exact), *formulas]
        rows.append(
            [
                Cell(arm.name, ARM),
                *counts,
                Cell(units.short(arm.elementwise_per_token, "FLOP"), value=arm.elementwise_per_token),
            ]
        )
    heads = ["arm", "exact", *FORMULAS.values(), "element-wise, in no budget"]
    note = "in brackets: distance of the formula from the exact count"
    return Table(title="training FLOPs per token by other counts", headers=heads, rows=rows, note=note)


def _convention(value: float | None, exact: float | None) -> Value:
    if value is None or not is_finite(value) or not exact:
        return None
    return Cell(f"{units.short(value, 'FLOP')} ({100 * (value / exact - 1):+.0f} %)", value=value)


def parameter_groups(plan: Plan) -> Table:
    """Parameters of each arm by optimizer group."""
    labels = dict.fromkeys(group.label for arm in plan.shapes for group in arm.optimizer_groups)
    rows: list[list[Value]] = []
    for arm in plan.shapes:
        sizes = {group.label: group.parameters for group in arm.optimizer_groups}
        counts = [Cell(units.short(sizes.get(label)), value=sizes.get(label)) for label in labels]
        rows.append([Cell(arm.name, ARM), *counts])
    note = "×: factor of the learning rate; decay: weight decay, none where it is not named"
    return Table(title="parameter groups", headers=["arm", *labels], rows=rows, note=note)


def arms(plan: Plan) -> Table:
    """What each arm is, for arms that are described by facts."""
    keys = list(dict.fromkeys(key for arm in plan.arms for key in arm.facts))
    rows: list[list[Value]] = []
    for arm in plan.arms:
        kind = "baseline" if arm.baseline else "compared"
        rows.append([Cell(arm.name, ARM), kind, *(fact(arm.facts.get(key)) for key in keys)])
    return Table(title="arms", headers=["arm", "is", *keys], rows=rows, text_columns=_text_columns(rows))


def options(plan: Plan) -> Table:
    """Architectures, their options, and the weights they start from."""
    rows = []
    for arm in plan.arms:
        listed = ", ".join(f"{key} {fact(value)}" for key, value in flatten(arm.options)) or units.DASH
        start = (
            f"{arm.initialise_from.path} ({arm.initialise_from.fingerprint})" if arm.initialise_from else None
        )
        row: list[Value] = [Cell(arm.name, ARM), arm.architecture, listed]
        rows.append([*row, start] if any(a.initialise_from for a in plan.arms) else row)
    heads = ["arm", "architecture", "options"]
    heads += ["starts from"] if any(arm.initialise_from for arm in plan.arms) else []
    return Table(title="architectures", headers=heads, rows=rows, text_columns=range(len(heads)))


def tasks(plan: Plan) -> Table:
    keys = list(dict.fromkeys(key for task in plan.tasks for key in task.facts))
    rows: list[list[Value]] = [
        [task.name, ", ".join(m.arrow for m in task.measures), *(fact(task.facts.get(key)) for key in keys)]
        for task in plan.tasks
    ]
    rows += [[name, f"left out: {why}", *(units.DASH for _ in keys)] for name, why in plan.absent.items()]
    return Table(
        title="tasks", headers=["task", "measures", *keys], rows=rows, text_columns=_text_columns(rows)
    )


def _text_columns(rows: Sequence[Sequence[Value]]) -> list[int]:
    """Columns with a value that does not begin like a number."""
    columns = zip(*rows, strict=True)
    return [
        i
        for i, column in enumerate(columns)
        if any(not str(value)[:1].isdigit() for value in column if str(value) != units.DASH)
    ]


def data(study: Study) -> list[Table]:
    """Single values, then a table of the splits where the summary has some."""
    nested = study.data.get("splits")
    splits = {
        name: split
        for name, split in (nested if isinstance(nested, dict) else study.data).items()
        if _is_split(split)
    }
    single = {key: value for key, value in study.data.items() if key not in splits and key != "splits"}
    columns = list(dict.fromkeys(key for split in splits.values() for key in split))
    rows = [[name, *(fact(split.get(column)) for column in columns)] for name, split in splits.items()]
    tables = [settings(single, heads=("entry", "value"))] if single else []
    text = _text_columns(rows) if rows else ()
    return [*tables, *([Table(headers=["split", *columns], rows=rows, text_columns=text)] if rows else [])]


def _is_split(value: object) -> bool:
    return isinstance(value, dict) and "tokens" in value


def settings(content: Facts, title: str = "", heads: Sequence[str] = ("setting", "value")) -> Table:
    """Nested values, one per row."""
    rows = [[key, fact(value)] for key, value in flatten(content)]
    return Table(title=title, headers=heads, rows=rows, text_columns=(0, 1))
