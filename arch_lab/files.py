"""Files written whole or not at all, and folders with one writer at a time.

Every file of the product goes through ``atomic_path`` or one of the ``write_…`` functions: a reader sees the
old file or the new one, with the user's umask. The temporary file has an unpredictable name in the target's
folder and is opened by ``O_EXCL | O_NOFOLLOW``, so a planted link is never followed; a link that stands at
the target is replaced, not its target.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from arch_lab.yaml_files import load_json
from blocks.errors import ConfigError, UserError

try:
    import fcntl
except ImportError:  # Windows: see _guard
    fcntl = None  # type: ignore[assignment]

LOCK, GUARD = ".lock", ".lock.guard"
LEFTOVER = re.compile(r"\..*\.[0-9a-f]{16}\.part")  # what a killed process leaves; see _fresh_name
UNLOCKABLE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # file systems without locks
# absent on Windows
NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
BINARY = getattr(os, "O_BINARY", 0)


class OutputError(UserError):
    """The output folder cannot be written, is in use, or holds results of something else."""


# --- writing ------------------------------------------------------------------------------------------------


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary file that replaces ``path`` when the block succeeds.

    Parent folders are made. The temporary file exists, is empty and ends in ``.part``.
    Raises: OutputError (disk full, read-only, not a folder); then, and when the block raises, ``path`` is as
    it was.
    """
    target = Path(path)
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = _create(target)
        yield temporary
        _synchronise(temporary)
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        raise cannot_write(target, error) from None
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()


def write_bytes(path: str | Path, data: bytes) -> None:
    """Atomic, see ``atomic_path``."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """UTF-8 with the line ends of ``text``, atomic; see ``atomic_path``."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> None:
    """Plain JSON with an indent of one space, atomic.

    Raises: ValueError for NaN and infinities; see ``atomic_path``.
    """
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def cannot_write(path: str | Path, error: OSError) -> OutputError:
    """The error to raise when the system refuses to write ``path``."""
    if error.errno == errno.ELOOP:  # also what O_NOFOLLOW says of a link
        return OutputError(f"cannot write {path}: {error.filename or path} is a symbolic link; remove it")
    in_the_way = isinstance(error, (FileExistsError, NotADirectoryError))
    reason = "a file stands where a folder is needed" if in_the_way else error.strerror or error
    return OutputError(f"cannot write {path}: {reason}; free space or choose another folder with --output")


def inside(folder: Path, path: Path) -> Path:
    """``path``, checked to lie in ``folder`` after links are resolved. Raises: OutputError."""
    if not path.resolve().is_relative_to(folder.resolve()):
        raise OutputError(
            f"{path} leads out of {folder}; nothing is written there: remove the link, "
            "or choose another --output"
        )
    return path


def _create(target: Path) -> Path:
    """A new empty file in the target's folder, mode 0666 less the umask."""
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | NO_FOLLOW | BINARY
    temporary = target.with_name(f".{target.name[:40]}.{secrets.token_hex(8)}.part")
    os.close(os.open(temporary, flags, 0o666))
    return temporary


def _synchronise(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | NO_FOLLOW | BINARY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- reading ------------------------------------------------------------------------------------------------


def read_json(path: str | Path) -> Any:
    """Content, or None when the file is missing or was damaged (it is then redone, never trusted)."""
    try:
        return load_json(path)
    except ConfigError:
        return None


# --- one writer at a time -----------------------------------------------------------------------------------


@contextmanager
def folder_lock(folder: str | Path, purpose: str) -> Iterator[None]:
    """Hold ``folder`` (made if absent) against every other process.

    What a killed writer left there is removed.

    ``purpose``: what the holder does, shown to whoever comes second ("arch-lab compare"). The system frees
    the lock of a dead process. File systems without locks have none.
    Raises: OutputError at once, naming process, host and time of the holder.
    """
    folder = Path(folder)
    path = folder / LOCK
    absent = [ancestor for ancestor in (folder, *folder.parents) if not ancestor.exists()]
    with _guard(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = _acquire(path)
            _describe(descriptor, purpose)
        except OSError as error:
            raise cannot_write(folder, error) from None
        try:
            clean(folder)
            yield
        finally:
            with suppress(OSError):
                path.unlink()  # still held: whoever opened it before finds that it is gone, see _acquire
            os.close(descriptor)
            with suppress(OSError):  # a refused study leaves no empty folders; one that holds anything stays
                for ancestor in absent:
                    ancestor.rmdir()


@contextmanager
def _guard(folder: Path) -> Iterator[None]:
    """The lock where ``flock`` is missing (Windows): a second file, locked by the library filelock.

    Raises: as folder_lock.
    """
    if fcntl is not None:
        yield
        return
    import filelock

    lock = filelock.FileLock(folder / GUARD, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        raise _in_use(folder, _first_words(folder / LOCK)) from None
    except OSError as error:
        raise cannot_write(folder, error) from None
    try:
        yield
    finally:
        lock.release()
        with suppress(OSError):
            (folder / GUARD).unlink()


def _in_use(folder: Path, words: bytes) -> OutputError:
    return OutputError(
        f"{folder} is in use by {_holder(words)}; wait until it ends, stop it, or choose another --output"
    )


def _acquire(path: Path) -> int:
    """Descriptor of the locked file at ``path``. Raises: OutputError when another process holds it."""
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | NO_FOLLOW | BINARY, 0o666)
        try:
            if fcntl is not None:
                _flock(descriptor, path)
            if _same_file(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder ended, and removed it, between our open and our lock


def _flock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _in_use(path.parent, os.read(descriptor, 4096)) from None
    except OSError as error:
        if error.errno not in UNLOCKABLE:
            raise


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def _describe(descriptor: int, purpose: str) -> None:
    since = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
    holder = {"purpose": purpose, "pid": os.getpid(), "host": socket.gethostname(), "since": since}
    os.ftruncate(descriptor, 0)
    os.write(descriptor, json.dumps(holder).encode())


def _first_words(path: Path) -> bytes:
    try:
        return path.read_bytes()[:4096]
    except OSError:
        return b""


def _holder(words: bytes) -> str:
    """The holder in words, from the lock file; it may have been caught between locking and writing."""
    try:
        facts = json.loads(words)
        return f"{facts['purpose']} (process {facts['pid']} on {facts['host']} since {facts['since']})"
    except (ValueError, KeyError, TypeError):
        return "another process"


def is_locked(folder: str | Path) -> bool:
    """Whether another process, or another part of this one, holds ``folder``.

    False where there are no locks.
    """
    if fcntl is None:
        return (Path(folder) / GUARD).exists()
    try:
        descriptor = os.open(Path(folder) / LOCK, os.O_RDONLY | NO_FOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)


def clean(folder: Path) -> None:
    """Remove temporary files that a killed process left; for the holder of the folder's lock only."""
    for path in folder.rglob("*.part"):
        if LEFTOVER.fullmatch(path.name) and stat.S_ISREG(path.lstat().st_mode):
            path.unlink(missing_ok=True)
