"""Systems without ``fcntl``, ``resource`` and ``pwd`` (Windows): modules import, a study runs, a folder is locked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WITHOUT = """
import os, sys, warnings
warnings.simplefilter("ignore")
for name in ("fcntl", "resource", "pwd", "grp", "termios", "tty"):
    sys.modules[name] = None
for name in ("O_NOFOLLOW", "getuid", "sched_getaffinity", "sched_setaffinity"):
    vars(os).pop(name, None)
"""
LOCKED = """
import subprocess
from arch_lab.files import OutputError, folder_lock, is_locked
with folder_lock("folder", "arch-lab compare"):
    assert is_locked("folder")
    if len(sys.argv) == 1:
        second = subprocess.run([sys.executable, __file__, "second"], capture_output=True, text=True)
        print(second.stderr.splitlines()[-1])
assert not is_locked("folder") and os.listdir("folder") == []
"""
IMPORTS = """
import arch_lab.cli, arch_lab.files, arch_lab.study, arch_lab.data.tokenizer_file
from arch_lab.study.memory import PeakMemory
with PeakMemory() as memory:
    memory.peak()
print("imported")
"""


def run(script: str, folder: Path) -> str:
    """What the script prints where those modules are missing."""
    (folder / "script.py").write_text(WITHOUT + script)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_studies_import_without_the_modules_of_unix(tmp_path: Path) -> None:
    assert run(IMPORTS, tmp_path) == "imported\n"


def test_a_folder_is_locked_without_flock(tmp_path: Path) -> None:
    printed = run(LOCKED, tmp_path)
    assert (
        "OutputError: folder is in use by arch-lab compare (process " in printed
        and "wait until it ends" in printed
    )
