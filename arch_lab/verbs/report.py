"""``arch-lab report``: the HTML report of a study folder, written again from its plain files; or its tables as Markdown."""

from __future__ import annotations

from pathlib import Path

from arch_lab.verbs import UsageError, nearest, parser


def main(verb: str, argv: list[str]) -> int:
    p = parser(verb, "example: arch-lab report runs/quickstart")
    p.add_argument("folder", metavar="RUNDIR", type=Path, help="the folder of a study, for example runs/quickstart")
    p.add_argument("--markdown", action="store_true", help="print the tables for a README instead (studies of speed)")
    given = p.parse_args(argv)
    folder: Path = given.folder
    if not (folder / "study.json").is_file():
        near = nearest(folder.name, [f.parent.name for f in folder.parent.glob("*/study.json")]) if folder.parent.is_dir() else ""
        why = "holds no study.json; it is written when arch-lab compare ends" if folder.is_dir() else "no such folder"
        raise UsageError(f"{folder}: {why}{near}")

    from arch_lab.report import write
    from arch_lab.study.experiment import engine_named
    from arch_lab.study.files import read_json

    study = read_json(folder / "study.json")
    engine = engine_named(study.get("experiment")) if isinstance(study, dict) else None
    if given.markdown and engine is None:
        raise UsageError(f"report: {folder}: --markdown is for studies of speed, such as throughput; this one has report.html")
    if engine is not None and given.markdown:
        print(engine.markdown(folder), end="")
    else:
        print(engine.report(folder) if engine is not None else write(folder))
    return 0
