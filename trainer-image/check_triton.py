"""Check without a GPU that this image can use Triton: its C compiler, Triton's own compiler, and Triton's interpreter.

Usage:
    python check_triton.py stub DIRECTORY   Write a libcuda.so.1 with the functions that Triton's driver calls.
    python check_triton.py                  Run the checks; libcuda.so.1 must be where Triton looks for it.

Triton compiles a C extension for CUDA at its first use. It searches for libcuda.so.1 with `ldconfig -p`, then in
LD_LIBRARY_PATH (triton/backends/nvidia/driver.py), and keeps the extension in TRITON_CACHE_DIR.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import torch
import triton
from triton import knobs
from triton import language as tl
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import driver
from triton.compiler import ASTSource

NO_DEVICE = 100
"""CUDA_ERROR_NO_DEVICE, which every function of the stub returns."""
ARCHITECTURE = 90
"""Compute capability that the kernel is compiled for, times 10."""
BLOCK = 64


def write_stub(directory: Path) -> None:
    """Compile a libcuda.so.1 that defines every function that Triton's driver refers to."""
    source = Path(driver.__file__).with_name("driver.c").read_text(encoding="utf-8")
    functions = sorted(set(re.findall(r"\b(cu[A-Z]\w+)\(", source)))
    code = "".join(f"int {name}(void) {{ return {NO_DEVICE}; }}\n" for name in functions)
    library = directory / "libcuda.so.1"
    command = ["gcc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-x", "c", "-", "-o", str(library)]
    directory.mkdir(parents=True, exist_ok=True)
    subprocess.run(command, input=code, text=True, check=True)


def add(left, right, total, size, block: tl.constexpr):  # type: ignore[no-untyped-def] # noqa: ANN001, ANN201
    """Add two vectors; Triton compiles this function."""
    position = tl.program_id(0) * block + tl.arange(0, block)
    inside = position < size
    values = tl.load(left + position, mask=inside) + tl.load(right + position, mask=inside)
    tl.store(total + position, values, mask=inside)


def compiled_driver() -> Path:
    """Load Triton's C extension for CUDA, which compiles it unless the cache has it; its file in the cache."""
    driver.CudaUtils()
    return next(Path(knobs.cache.dir).rglob("cuda_utils*.so"))


def compiled_kernel() -> int:
    """Compile `add` to machine code; its size in bytes."""
    pointer = "*fp32"
    signature = {"left": pointer, "right": pointer, "total": pointer, "size": "i32", "block": "constexpr"}
    source = ASTSource(triton.jit(add), signature=signature, constexprs={"block": BLOCK})
    return len(triton.compile(source, target=GPUTarget("cuda", ARCHITECTURE, 32)).asm["cubin"])


def interpreted_kernel() -> None:
    """Run `add` in Triton's interpreter, and compare its result with PyTorch's."""
    knobs.runtime.interpret = True
    left, right = torch.rand(100), torch.rand(100)
    total = torch.zeros(100)
    triton.jit(add)[(triton.cdiv(100, BLOCK),)](left, right, total, 100, BLOCK)
    if not torch.equal(total, left + right):
        raise SystemExit(f"Triton's interpreter added wrongly: {total} is not {left + right}")


def main() -> None:
    """Write the stub, or run every check."""
    if sys.argv[1:2] == ["stub"]:
        write_stub(Path(sys.argv[2]))
        return
    print(f"Triton {triton.__version__}, PyTorch {torch.__version__}, user {os.getuid()}")
    print(f"libcuda.so.1: {', '.join(driver.libcuda_dirs())}")
    print(f"driver: {compiled_driver()}")
    print(f"kernel: {compiled_kernel()} bytes for compute capability {ARCHITECTURE / 10}")
    interpreted_kernel()
    print("interpreter: ok")


if __name__ == "__main__":
    main()
