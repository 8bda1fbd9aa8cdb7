"""Version and commit of the code that runs."""

from __future__ import annotations

import json
import subprocess
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

__version__ = "0.1.0"
ROOT = Path(__file__).resolve().parents[1]


def commit() -> str:
    """Commit of the checkout, with '+' when it has uncommitted changes.

    Outside a checkout the commit that was installed; '' when unknown.
    """
    try:
        if _git("ls-files", "--error-unmatch", "arch_lab/__init__.py").returncode:
            return _installed_commit()
        head = _git("rev-parse", "--short=12", "HEAD").stdout.strip()
        return head + (
            "+" if head and _git("status", "--porcelain", "--untracked-files=no").stdout.strip() else ""
        )
    except (OSError, subprocess.SubprocessError):
        return _installed_commit()


def describe() -> str:
    """'0.1.0 (e436a2f, changed)', or only the version without a known commit."""
    revision = commit()
    return (
        f"{__version__} ({revision[:7]}{', changed' if revision.endswith('+') else ''})"
        if revision
        else __version__
    )


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, timeout=10)


def _installed_commit() -> str:
    """The commit that pip installed from a repository (PEP 610), or ''."""
    try:
        text = distribution("arch-lab").read_text("direct_url.json")
        return str(json.loads(text or "{}").get("vcs_info", {}).get("commit_id", ""))[:12]
    except (PackageNotFoundError, ValueError, AttributeError):
        return ""
