"""Set-up behind `make`: a virtual environment with arch-lab, editable, at the versions of constraints.txt.

Runs on a plain Python, so standard library only. uv installs in seconds where pip needs minutes. uv does not read
pip's configuration, so mirrors, local wheels and certificates are passed on to it.
"""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
TARGET = [".[dev,report]"]
CPU_SIZE = "about 2.2 GB on disk, with torch for the CPU"
CUDA_SIZE = "about 5.5 GB on disk, with torch for CUDA"
NVIDIA_FILES = (
    "/dev/nvidia0",
    "/dev/nvidiactl",
    "/proc/driver/nvidia/version",
    "/dev/dxg",
)  # the last one is WSL's


def say(text):
    print("setup: " + text, flush=True)


def pip_setting(python, name):
    """A list setting of pip: the environment variable, else its configuration files; [] when neither is set."""
    value = os.environ.get("PIP_" + name.upper().replace("-", "_"))
    for section in ("install", "global"):
        if not value:
            command = [python, "-m", "pip", "config", "get", section + "." + name]
            value = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return (value or "").split()


def has_nvidia_device():
    """Whether an NVIDIA driver or device is visible; ARCH_LAB_NVIDIA=0 or 1 overrides it."""
    override = os.environ.get("ARCH_LAB_NVIDIA")
    if override in ("0", "1"):
        return override == "1"
    return shutil.which("nvidia-smi") is not None or any(Path(file).exists() for file in NVIDIA_FILES)


def has_local_torch(folders):
    """Whether a folder of local wheels holds torch; that wheel is then the one to install."""
    return any(Path(folder).is_dir() and any(Path(folder).glob("torch-*.whl")) for folder in folders)


def torch_options(python):
    """(uv options, size text). Without them Linux would download the CUDA build, which a CPU cannot use."""
    if has_local_torch(pip_setting(python, "find-links")):
        return [], "torch from the folder of local wheels"
    if os.environ.get("UV_TORCH_BACKEND"):
        return [], "torch for " + os.environ["UV_TORCH_BACKEND"] + ", as UV_TORCH_BACKEND says"
    if platform.system() != "Linux":
        return [], CPU_SIZE
    if has_nvidia_device():
        return [], CUDA_SIZE
    return ["--torch-backend", "cpu"], CPU_SIZE


def uv_environment(python):
    environment = dict(os.environ, VIRTUAL_ENV=str(VENV), UV_NO_PROGRESS="1")
    environment.setdefault("UV_HTTP_TIMEOUT", "180")
    for name in (
        "UV_SYSTEM_CERTS",
        "UV_NATIVE_TLS",
    ):  # the certificates of this machine, as pip does; the older name too
        environment.setdefault(name, "true")
    certificate = pip_setting(python, "cert")
    if certificate:
        environment.setdefault("SSL_CERT_FILE", certificate[0])
    return environment


def install_with_uv(python, torch):
    options = ["--index-strategy", "unsafe-best-match"]  # pip's rule: the best version over all indexes
    for name in ("index-url", "extra-index-url", "find-links"):
        for value in pip_setting(python, name):
            options += ["--" + name, value]
    command = [python, "-m", "uv", "pip", "install", "--quiet", "--python", python, *options, *torch]
    # as pip does: uncompiled, torch and Lightning take three times as long to import where nothing writes bytecode
    command += ["--compile-bytecode", "-c", "constraints.txt", "-e", *TARGET]
    return subprocess.run(command, cwd=ROOT, env=uv_environment(python)).returncode == 0


def install(python):
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "-c", "constraints.txt"]
    torch, size = torch_options(python)
    say(
        "installing arch-lab and its tools at the versions of constraints.txt: "
        + size
        + "; a minute or two the first time"
    )
    have_uv = subprocess.run([python, "-c", "import uv"], stderr=subprocess.DEVNULL).returncode == 0
    have_uv = have_uv or subprocess.run([*pip, "-qq", "uv"], cwd=ROOT).returncode == 0
    if have_uv and install_with_uv(python, torch):
        return
    if have_uv and torch:
        say(
            "no CPU build of torch could be fetched; trying the default build, which is larger ("
            + CUDA_SIZE
            + ")"
        )
        if install_with_uv(python, []):
            return
    say("uv could not do it; trying pip (slower)")
    if subprocess.run([*pip, "-q", "-e", *TARGET], cwd=ROOT).returncode:
        sys.exit("setup: the installation failed, see above; run the same command again to retry")


def main():
    if sys.version_info < (3, 11):  # noqa: UP036  older ones are who this is for
        have = ".".join(map(str, sys.version_info[:3]))
        sys.exit(
            "setup: arch-lab needs Python 3.11 or newer, this is "
            + have
            + "; choose another: make PYTHON=python3.12 ..."
        )
    python = str(VENV / "bin" / "python")
    if not Path(python).exists():
        say("creating .venv with Python " + sys.version.split()[0])
        if subprocess.run([sys.executable, "-m", "venv", str(VENV)]).returncode:
            sys.exit(
                "setup: cannot create .venv; is the venv module of this Python installed (Debian: python3-venv)?"
            )
    install(python)
    (VENV / ".installed").touch()
    say("done")


if __name__ == "__main__":
    main()
