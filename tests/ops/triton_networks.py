"""Networks in Triton without a GPU: `python -m tests.ops.triton_networks interpret|compile`, a process of its own,
as Triton is told to interpret before it is imported.

`interpret` prints errors of values, first and second derivatives against the definition in float64; `compile` compiles
the kernels for GPUs and prints what they take.
"""

import itertools
import json
import os
import sys
from typing import Any

if sys.argv[1:] == ["interpret"]:
    os.environ["TRITON_INTERPRET"] = "1"

import torch

# Input, hidden width, outputs, layers; rows of the first bias (0: none, 3: by index), biases of the others.
NETWORKS = [(144, 64, 16, 2, 0, False), (35, 40, 3, 3, 3, True), (16, 128, 17, 4, 1, True)]


def interpret() -> dict[str, list[float]]:
    """Errors relative to the largest value, by network: output, first derivatives, second ones of their squares."""
    from headfields.ops import mlp as _  # noqa: F401
    from headfields.ops.reference import mlp as reference

    module: Any = sys.modules["headfields.ops.mlp"]
    module._has_triton = lambda x: x.dtype == torch.float16
    errors = {}
    for width, hidden, out, layers, rows, bias in NETWORKS:
        torch.manual_seed(0)
        widths = [width, *[hidden] * (layers - 1), out]
        weights = [torch.randn(b, a) * (2 / a) ** 0.5 for a, b in itertools.pairwise(widths)]
        biases = [torch.randn(rows, hidden), *(torch.randn(int(bias), b) for b in widths[2:])]
        x, grad = torch.randn(70, width), torch.randn(70, out)
        index = torch.randint(0, 3, (70,)) if rows > 1 else None

        def results(kernels: bool, kind: torch.dtype, tensors: list[torch.Tensor], layers=layers, index=index) -> list:
            x, grad, *parameters = [t.half().to(kind).requires_grad_() for t in tensors]
            weights, biases = parameters[:layers], parameters[layers:]
            run = module._mlp if kernels else module._plain
            value = run(x, weights, biases, index)
            inputs = [t for t in (x, *parameters) if t.numel()]
            first = torch.autograd.grad(value, inputs, grad, create_graph=True)
            second = torch.autograd.grad(sum(t.float().square().mean() for t in first), [x, *weights])
            return [value, *first, *second]

        tensors = [x, grad, *weights, *biases]
        have, want = results(True, torch.float16, tensors), results(False, torch.float64, tensors)
        assert reference.layers(x, weights, biases, index)[-1].shape == have[0].shape
        errors[f"{layers} layers"] = [
            float((a.double() - b).abs().mean().detach() / b.abs().mean().detach())
            for a, b in zip(have, want, strict=True)
        ]
    return errors


def compile_ahead() -> dict[str, Any]:
    """Bytes of shared memory, and products on tensor cores, of each kernel and architecture."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from headfields.ops.kernels import mlp_triton

    taken = {}
    constants = mlp_triton.constants_of(144, 64, 16, 3, True, True, False)
    tensors = {name: "*bf16" for name in ("grad", "x", "w0", "w1", "w2", "w3", "b0", "b1", "b2", "b3", "out", "hidden",
                                          "gradients", "to_x")}  # fmt: skip
    kinds = tensors | {"index": "*i64", "rows": "i32"}
    for architecture in (80, 90):
        for kernel in (mlp_triton.forward_kernel, mlp_triton.backward_kernel):
            fixed = {name: value for name, value in (constants | {"TO_X": True}).items() if name in kernel.arg_names}
            signature = {name: kinds.get(name, "constexpr") for name in kernel.arg_names}
            source = ASTSource(kernel, signature=signature, constexprs=fixed)
            made = triton.compile(source, target=GPUTarget("cuda", architecture, 32))
            taken[f"{kernel.__name__} sm_{architecture}"] = {
                "shared": made.metadata.shared, "products": made.asm["ptx"].count("mma")
            }  # fmt: skip
    return taken


if __name__ == "__main__":
    print(json.dumps(interpret() if sys.argv[1] == "interpret" else compile_ahead()))
