"""One set-up for every test: offline, one thread, repeatable random numbers, property tests without a clock."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Generator, Iterator
from typing import Any

# before torch and datasets are imported: both read these once
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("ARCH_LAB_EXECUTOR", "inline")  # worker processes take seconds to start
os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # test processes are the parallelism; child processes inherit it

import pytest
import torch
from hypothesis import register_random, settings

from tests.law_table import LAW_RESULT, law_table

torch.set_num_threads(1)
ANNOUNCED = "announced"


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


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Leave modules and tests out of garbage collection: they live as long as the process, and are many."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))


@pytest.fixture
def announce(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Text for the end of the whole run: what a test measured, not only that it passed. Arrives from worker processes too."""
    return lambda text: record_property(ANNOUNCED, text)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [
        r for found in terminalreporter.stats.values() for r in found if getattr(r, "when", None) == "call"
    ]
    texts = [str(value) for r in reports for name, value in r.user_properties if name == ANNOUNCED]
    table = law_table(
        [(value, r.failed) for r in reports for name, value in r.user_properties if name == LAW_RESULT]
    )
    for text in [*texts, *([table] if table else [])]:
        terminalreporter.write_line("\n" + text)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Each test starts from the same random numbers, whatever ran before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_blocks() -> Iterator[None]:
    """Blocks that a test registers go with it: the next test may use their names."""
    from blocks import registry

    registry.entries()  # the built-in ones stay, whichever test looks them up first
    before = set(registry._entries)
    yield
    for name in set(registry._entries) - before:
        if not registry._entries[name].block.__module__.startswith(
            ("blocks.", "tests.")
        ):  # those stay imported
            del registry._entries[name]
