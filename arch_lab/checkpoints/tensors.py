"""safetensors files, one or many: names and shapes first, data last."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from arch_lab.checkpoints.checkpoint import CheckpointError
from arch_lab.checkpoints.storage import read_object, umask

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
FLOATS = ("F64", "F32", "F16", "BF16")  # as safetensors names them


class TensorFiles:
    """The tensors of a folder, by name.

    Raises: CheckpointError when a file is missing, damaged or not what the index says.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, safe_open] = {}
        self.file_of: dict[str, str] = {}
        for name in self._names():
            with _readable(folder / name):
                self.files[name] = safe_open(folder / name, framework="pt")
                for tensor in self.files[name].keys():  # noqa: SIM118  no mapping
                    self.file_of[tensor] = name
        self._check_index()

    def _names(self) -> list[str]:
        self.index = read_object(self.folder / INDEX) if (self.folder / INDEX).is_file() else None
        if self.index is not None and not (self.folder / SINGLE).is_file():
            listed = self.index.get("weight_map")
            if (
                not isinstance(listed, dict)
                or not listed
                or not all(isinstance(f, str) and Path(f).name == f for f in listed.values())
            ):
                raise CheckpointError(
                    f"{self.folder / INDEX}: weight_map must list the file in this folder of each tensor"
                )
            return sorted(set(listed.values()))
        self.index = None
        if not (self.folder / SINGLE).is_file():
            other = sorted(f.name for f in self.folder.glob("*.bin"))
            tail = f", only {other[0]}; save it as safetensors first" if other else ""
            raise CheckpointError(f"{self.folder} holds no {SINGLE}{tail}")
        return [SINGLE]

    def _check_index(self) -> None:
        for tensor, file in (self.index or {}).get("weight_map", {}).items():
            if self.file_of.get(tensor) != file:
                raise CheckpointError(
                    f"{self.folder / file}: tensor {tensor!r} is not in it, although {INDEX} says so"
                )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {
            name: tuple(self.files[file].get_slice(name).get_shape()) for name, file in self.file_of.items()
        }

    def check_floats(self, names: Iterable[str]) -> None:
        """Check that tensors hold plain floating point.

        Raises: CheckpointError naming the first that does not.
        """
        for name in names:
            kind = str(self.files[self.file_of[name]].get_slice(name).get_dtype())
            if kind not in FLOATS:
                raise CheckpointError(
                    f"{self.folder / self.file_of[name]}: tensor {name!r} is {kind}, "
                    f"a format that is not supported; save the weights as one of {', '.join(FLOATS)}"
                )

    def read(self, name: str) -> Tensor:
        with _readable(self.folder / self.file_of[name]):
            tensor: Tensor = self.files[self.file_of[name]].get_tensor(name)
        return tensor


def check_shapes(
    stored: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]], origin: Path
) -> None:
    """Compare the shapes of a file with the expected ones.

    Raises: CheckpointError for the first tensor that is missing, superfluous or of another shape.
    """
    for name, shape in expected.items():
        if name not in stored:
            raise CheckpointError(
                f"{origin}: tensor {name!r} is missing ({len(expected)} needed, {len(stored)} present)"
            )
        if stored[name] != shape:
            raise CheckpointError(
                f"{origin}: tensor {name!r} has shape {list(stored[name])}, "
                f"the configuration says {list(shape)}"
            )
    extra = sorted(set(stored) - set(expected))
    if extra:
        raise CheckpointError(f"{origin}: tensor {extra[0]!r} is not part of this model ({len(extra)} such)")


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, metadata={"format": "pt"})
    path.chmod(0o666 & ~umask())  # the library writes 0600


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged or cut short ({' '.join(str(error).split())})") from None
