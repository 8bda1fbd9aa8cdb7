"""One set-up for every test: offline, one thread, repeatable random numbers, property tests without a clock."""

from __future__ import annotations

import os

# before torch and datasets are imported: both read these once
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # test processes are the parallelism; child processes inherit it

import pytest
import torch
from hypothesis import register_random, settings

torch.set_num_threads(1)


class TorchGenerator:
    """torch's global generator in the shape hypothesis resets between examples; it does not know torch's own."""

    def seed(self, value: int) -> None:
        torch.manual_seed(value)

    def getstate(self) -> torch.Tensor:
        return torch.get_rng_state()

    def setstate(self, state: torch.Tensor) -> None:
        torch.set_rng_state(state)


KEEP = TorchGenerator()  # a name of its own: hypothesis holds a weak reference only
register_random(KEEP)

# no deadline: a loaded machine is slow, not wrong. In CI the examples are the same each time
settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Each test starts from the same random numbers, whatever ran before it."""
    torch.manual_seed(0)
