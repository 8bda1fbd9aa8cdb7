"""``arch-lab report``: the HTML report of a study folder, written again from its plain files."""

from __future__ import annotations

from pathlib import Path

from arch_lab.verbs import UsageError, nearest, parser


def main(verb: str, argv: list[str]) -> int:
    p = parser(verb, "example: arch-lab report runs/quickstart")
    p.add_argument("folder", metavar="RUNDIR", type=Path, help="the folder of a study, for example runs/quickstart")
    folder: Path = p.parse_args(argv).folder
    if not (folder / "study.json").is_file():
        near = nearest(folder.name, [f.parent.name for f in folder.parent.glob("*/study.json")]) if folder.parent.is_dir() else ""
        why = "holds no study.json; it is written when arch-lab compare ends" if folder.is_dir() else "no such folder"
        raise UsageError(f"{folder}: {why}{near}")

    from arch_lab.report import write

    print(write(folder))
    return 0
