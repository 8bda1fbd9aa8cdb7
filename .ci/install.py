"""Set-up behind `make`: a virtual environment with arch-lab, editable, at the versions of constraints.txt.

Runs on the plain Python that is there, so standard library only. uv does the installing because it needs seconds where
pip needs minutes; it does not read pip's configuration, so mirrors, local wheels and certificates are handed over.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
TARGET = [".[dev,report]"]


def say(text):
    print("setup: " + text, flush=True)


def pip_setting(python, name):
    """What pip would use: the environment variable, else its configuration files; [] when neither is set."""
    value = os.environ.get("PIP_" + name.upper().replace("-", "_"))
    for section in ("install", "global"):
        if not value:
            found = subprocess.run([python, "-m", "pip", "config", "get", section + "." + name], capture_output=True, text=True)
            value = found.stdout.strip()
    return (value or "").split()


def install_with_uv(python):
    options = ["--index-strategy", "unsafe-best-match"]  # pip's rule: the best version over all indexes
    for name in ("index-url", "extra-index-url", "find-links"):
        for value in pip_setting(python, name):
            options += ["--" + name, value]
    environment = dict(os.environ, VIRTUAL_ENV=str(VENV), UV_NO_PROGRESS="1")
    environment.setdefault("UV_HTTP_TIMEOUT", "180")
    for name in ("UV_SYSTEM_CERTS", "UV_NATIVE_TLS"):  # the certificates of this machine, as pip does; the older name too
        environment.setdefault(name, "true")
    certificate = pip_setting(python, "cert")
    if certificate:
        environment.setdefault("SSL_CERT_FILE", certificate[0])
    uv = [python, "-m", "uv", "pip", "install", "--quiet", "--python", python]
    return subprocess.run([*uv, *options, "-c", "constraints.txt", "-e", *TARGET], cwd=ROOT, env=environment).returncode == 0


def main():
    if sys.version_info < (3, 11):  # noqa: UP036  older ones are who this is for
        have = ".".join(map(str, sys.version_info[:3]))
        sys.exit("setup: arch-lab needs Python 3.11 or newer, this is " + have + "; name another: make PYTHON=python3.12 ...")
    python = str(VENV / "bin" / "python")
    if not Path(python).exists():
        say("creating .venv with Python " + sys.version.split()[0])
        if subprocess.run([sys.executable, "-m", "venv", str(VENV)]).returncode:
            sys.exit("setup: cannot create .venv; is the venv module of this Python installed (Debian: python3-venv)?")
    say("installing arch-lab and its tools at the versions of constraints.txt (the first time this takes a minute or two)")
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "-c", "constraints.txt"]
    have_uv = subprocess.run([python, "-c", "import uv"], stderr=subprocess.DEVNULL).returncode == 0
    have_uv = have_uv or subprocess.run([*pip, "-qq", "uv"], cwd=ROOT).returncode == 0
    if not (have_uv and install_with_uv(python)):
        say("uv could not do it; trying pip (slower)")
        if subprocess.run([*pip, "-q", "-e", *TARGET], cwd=ROOT).returncode:
            sys.exit("setup: the installation failed, see above; run the same command again to retry")
    (VENV / ".installed").touch()
    say("done")


if __name__ == "__main__":
    main()
