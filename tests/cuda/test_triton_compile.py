"""Every Triton kernel compiles for real targets without a GPU, keeps its values in registers, and fits a thread block's shared memory."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")

if find_spec("triton") is not None:
    from tests.cuda.triton_compile import SHARED, Resources, compile_resources
    from tests.cuda.triton_resources import Launch, launches

    LAUNCHES = launches()
else:
    LAUNCHES = []


def _cases() -> list[object]:
    """What the published sizes need on the newest target at once; other sizes, float32 and sm_80 take minutes."""
    found = []
    for launch in LAUNCHES:
        for capability in SHARED:
            quick = capability == 90 and not launch.large and launch.dtype == "bf16"
            name = f"{launch.name}, {launch.sizes}, {launch.dtype}, sm_{capability}"
            found.append(pytest.param(launch, capability, id=name, marks=() if quick else pytest.mark.slow))
    return found


@pytest.mark.parametrize(("launch", "capability"), _cases())
def test_the_kernel_stays_in_registers_and_fits_shared_memory(launch: Launch, capability: int) -> None:
    found = launch.compiled(capability)
    assert found.faults(capability) == []
    plain_fp32 = launch.constants["PRECISION"] == "ieee"  # has no tensor-core form
    assert found.mma is not plain_fp32


def test_faults_name_what_is_wrong() -> None:
    assert Resources(255, 0, SHARED[80], mma=True).faults(80) == []
    assert Resources(255, 0, SHARED[80] + 1, mma=True).faults(80) == [
        "166913 bytes of shared memory (sm_80 has 166912)"
    ]
    assert Resources(255, 8, 0, mma=True, local=3).faults(90) == [
        "spills: 8 bytes of stack, 3 local loads and stores"
    ]


def test_a_kernel_that_spills_is_seen_to_spill() -> None:
    """The check itself: 64 x 128 sums held by one warp are 256 registers a thread, one more than there are."""
    launch = next(x for x in LAUNCHES if x.name == "linear")
    crowded = {**launch.constants, "I": 32, "O": 128, "WO": 32, "BM": 64, "BI": 16, "BO": 128}
    found = compile_resources(launch.kernel, launch.signature, crowded, 90, num_warps=1, num_stages=1)
    assert any(fault.startswith("spills") for fault in found.faults(90))
