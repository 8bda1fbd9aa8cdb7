"""What the compilers make of a Triton kernel, on a machine without a GPU.

Triton's wheel carries ptxas, cuobjdump and nvdisasm, so a kernel compiles to the machine code of a real target (sm_80, sm_90) and its
registers, stack and shared memory can be read off. That proves that it compiles and does not spill, never that it is fast.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REGISTERS = 255  # of one thread, every target
SHARED = {
    80: 163 * 1024,
    90: 227 * 1024,
}  # bytes one thread block may ask for: CUDA programming guide, table of compute capabilities


@dataclass(frozen=True)
class Resources:
    """One kernel for one target. ``mma``: products run on the tensor cores; ``local``: SASS loads and stores of spilled registers."""

    registers: int
    stack_bytes: int
    shared_bytes: int
    mma: bool
    local: int = 0

    def faults(self, capability: int) -> list[str]:
        """What keeps the kernel from being started or from staying in registers; [] when nothing does."""
        found = []
        if self.registers > REGISTERS:
            found.append(f"{self.registers} registers a thread (at most {REGISTERS})")
        if self.stack_bytes or self.local:
            found.append(f"spills: {self.stack_bytes} bytes of stack, {self.local} local loads and stores")
        if self.shared_bytes > SHARED[capability]:
            found.append(
                f"{self.shared_bytes} bytes of shared memory (sm_{capability} has {SHARED[capability]})"
            )
        return found


def compile_resources(
    kernel: Any,
    signature: Mapping[str, str],
    constexprs: Mapping[str, Any],
    capability: int,
    num_warps: int,
    num_stages: int,
    *,
    divisible: Collection[str] = (),
) -> Resources:
    """Compile a ``@triton.jit`` function for sm_``capability``.

    signature: name -> "*bf16", "i32", "fp32", ... of the run-time arguments (those of ``constexprs`` may be left out). Pointers are taken
    as 16-byte aligned, as torch's allocations are: without that no load is pipelined. ``divisible`` names the integers that a launch
    would find divisible by 16.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    types = {name: "constexpr" if name in constexprs else signature[name] for name in names}
    aligned = {
        (names.index(name),): [["tt.divisibility", 16]]
        for name, kind in types.items()
        if kind.startswith("*") or name in divisible
    }
    source = ASTSource(fn=kernel, signature=types, constexprs=dict(constexprs), attrs=aligned)
    options = {"num_warps": num_warps, "num_stages": num_stages}
    built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    usage, sass = _cuobjdump(built.asm["cubin"], "-res-usage"), _cuobjdump(built.asm["cubin"], "-sass")
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if found is None:
        raise RuntimeError(f"cuobjdump printed no resource line: {usage[-500:]}")
    return Resources(
        registers=int(found[1]),
        stack_bytes=int(found[2]),
        shared_bytes=built.metadata.shared,
        mma=re.search(r"\bHG?MMA\b", sass) is not None,
        local=len(re.findall(r"\b(?:LDL|STL)\b", sass)),
    )


def _cuobjdump(cubin: bytes, option: str) -> str:
    import triton

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        # cuobjdump starts nvdisasm by name
        environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ.get('PATH', '')}"}
        command = [str(tools / "cuobjdump"), option, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
