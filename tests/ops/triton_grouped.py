"""Grouped layers in Triton without a GPU: `python -m tests.ops.triton_grouped interpret|compile`, a process of its own,
as Triton is told to interpret before it is imported.

`interpret` prints errors of values, first and second derivatives against a loop over the groups in float64; `compile`
compiles the kernels for GPUs and prints what they take.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from typing import Any

if sys.argv[1:] == ["interpret"]:
    os.environ["TRITON_INTERPRET"] = "1"

import torch

# Rows, groups, input, output, rows of a block, whether there is a bias.
LAYERS = [(150, 5, 7, 40, 16, True), (90, 3, 70, 1, 32, True), (40, 4, 33, 20, 48, False), (3, 9, 5, 5, 16, True)]


def interpret() -> dict[str, list[float]]:
    """Errors relative to the largest value, by layer: output, first derivatives, second ones."""
    from headfields.ops.grouped import group_rows

    module: Any = sys.modules["headfields.ops.grouped_linear"]
    module.has_tiles = lambda device: True
    errors = {}
    for rows, groups, into, out, block, biased in LAYERS:
        random = torch.Generator().manual_seed(0)
        group = torch.randint(0, groups - 1, (rows,), generator=random)  # the last has no rows
        grouped = group_rows(group, groups, block, fixed=True)
        tensors = [torch.randn(rows, into), torch.randn(groups, into, out), torch.randn(groups * biased, out)]
        grad = torch.randn(rows, out, generator=random)

        def results(
            kernels: bool, kind: torch.dtype, tensors=tensors, grad=grad, group=group, grouped=grouped
        ) -> list[torch.Tensor]:
            x, weights, bias = [t.to(kind).requires_grad_() for t in tensors]
            if kernels:
                value = grouped.scatter(module.grouped_linear(grouped.gather(x), weights, bias, grouped.group))
            else:
                value = torch.stack([row @ weights[g] for row, g in zip(x, group.tolist(), strict=True)])
                value = value + bias[group] if len(bias) else value
            inputs = [x, weights, bias] if len(bias) else [x, weights]
            first = torch.autograd.grad(value, inputs, grad.to(kind) * value.detach(), create_graph=True)
            second = torch.autograd.grad(sum(t.tanh().sum() for t in first), inputs[:2])
            return [value, *first, *second]

        have, expected = results(True, torch.float32), results(False, torch.float64)
        errors[f"{rows} rows"] = [
            float((a.double() - b).abs().max().detach() / b.abs().max().detach())
            for a, b in zip(have, expected, strict=True)
        ]
    return errors


def stack_of(cubin: bytes) -> int:
    """Bytes of stack that a compiled kernel takes, by the tool in Triton's wheel."""
    import triton

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tool = f"{triton.__path__[0]}/backends/nvidia/bin/cuobjdump"
        listing = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    return max(map(int, re.findall(r"STACK:(\d+)", listing)))


def compile_ahead() -> dict[str, Any]:
    """Bytes of shared memory and of stack, and products on tensor cores, of each kernel, precision and architecture."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from headfields.ops.kernels import grouped_triton

    taken = {}
    kinds = {"group": "*i64", "first": "*i64", "block": "i32", "of_group": "i32", "of_in": "i32", "of_out": "i32"}
    for architecture in (80, 90):
        kernels = (grouped_triton.linear_kernel, grouped_triton.outer_kernel)
        for kernel, warps in zip(kernels, grouped_triton.WARPS, strict=True):
            for kind, precision in ((torch.float32, "tf32x3"), (torch.float32, "tf32"), (torch.bfloat16, "ieee")):
                fixed = grouped_triton.constants_of(kernel, 128, 200, 200, kind, True) | {"PRECISION": precision}
                tensor = "*fp32" if kind == torch.float32 else "*bf16"
                signature = {
                    name: "constexpr" if name in fixed else kinds.get(name, tensor) for name in kernel.arg_names
                }
                source = ASTSource(kernel, signature=signature, constexprs=fixed)
                made = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options={"num_warps": warps})
                taken[f"{kernel.__name__} {precision} sm_{architecture}"] = {
                    "shared": made.metadata.shared, "products": made.asm["ptx"].count("mma"),
                    "stack": stack_of(made.asm["cubin"]),
                }  # fmt: skip
    return taken


if __name__ == "__main__":
    print(json.dumps(interpret() if sys.argv[1] == "interpret" else compile_ahead()))
