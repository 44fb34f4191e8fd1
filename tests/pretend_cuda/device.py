"""Tensors that say they are on `cuda:0` while their values stay on the CPU, and what is done with them.

Within `with PretendCuda() as device:` every operation of PyTorch passes through here. Operands on different devices are
an error, as on a GPU. What a GPU would launch, and where the host would wait for it, is counted with the line of the
package that asked for it. Registered operations run on Warp's CPU device, as they would run in Warp on a GPU.

Import this file before torch (`python -m tests.pretend_cuda` does).
"""

from tests.pretend_cuda import guard

guard.load()

import os  # noqa: E402

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is imported, which torch may do

import collections  # noqa: E402
import contextlib  # noqa: E402
import importlib.util  # noqa: E402
import sys  # noqa: E402
import unittest.mock  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

import headfields  # noqa: E402
from headfields.ops import _checks, compositing, dispatch, occupancy  # noqa: E402
from headfields.runs import step_graph  # noqa: E402
from tests.pretend_cuda import traffic  # noqa: E402

DEVICE = torch.device("cuda", 0)
HAS_TRITON = importlib.util.find_spec("triton") is not None
"""Kernels in Triton run in its interpreter, on the values; without it, what takes their place on a GPU without it."""
PACKAGE = str(Path(headfields.__file__).parent)


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


NO_LAUNCH = _names(
    "_local_scalar_dense _reshape_alias _unsafe_view alias as_strided detach diagonal empty empty_like "
    "empty_strided equal expand is_nonzero is_pinned item lift_fresh mT movedim narrow new_empty "
    "new_empty_strided numpy_T permute real resize_ select slice split split_with_sizes squeeze squeeze_ "
    "t t_ transpose transpose_ unbind unfold unsqueeze unsqueeze_ view view_as"
)
"""Views, allocations, and what reads a number, which is counted as waiting."""

TAGGED = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
"""PyTorch's own marks of operations that give the host a number, or whose results have a size that it has to read. An
index is among them for its masks, and a one-hot encoding for its number of classes, which ours give."""

WAITING = _names(
    "_linalg_check_errors _linalg_eigh _linalg_eigvals _linalg_svd allclose equal histc is_nonzero linalg_eig "
    "linalg_ldl_factor linalg_lstsq linalg_matrix_rank linalg_pinv multinomial"
)
"""Operations that PyTorch does not mark, and that check what the host has to read: those of `torch.linalg` whose
documentation says that they synchronize reach it by one of these."""

RESHAPING_IN_PLACE = _names("squeeze_ swapaxes_ t_ transpose_ unsqueeze_")

INDEXING = _names("_index_put_impl_ _unsafe_index index index_put index_put_")


class PretendTensor(torch.Tensor):
    """A tensor on `cuda:0`; `values` are its numbers, on the CPU."""

    values: torch.Tensor

    @staticmethod
    def __new__(cls, values: torch.Tensor, requires_grad: bool = False) -> "PretendTensor":
        made: PretendTensor = torch.Tensor._make_wrapper_subclass(
            cls, values.size(), strides=values.stride(), storage_offset=values.storage_offset(), dtype=values.dtype,
            layout=values.layout, device=DEVICE, requires_grad=requires_grad,
        )  # fmt: skip
        made.values = values
        return made

    def __init__(self, values: torch.Tensor, requires_grad: bool = False) -> None:
        pass

    def __repr__(self, **_: Any) -> str:
        return f"PretendTensor({tuple(self.shape)}, {self.dtype})"

    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self) -> Any:
        PretendCuda.current().count_wait("tolist")
        return self.values.tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("a tensor on cuda:0 has no NumPy array; copy it to the host with .cpu() first")

    __array__ = numpy
    data_ptr = numpy

    def __deepcopy__(self, memo: Any) -> "PretendTensor":
        memo[id(self)] = copied = PretendTensor(self.values.detach().clone(), self.requires_grad)
        return copied

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{operation} on a pretend tensor outside of `with PretendCuda()`")


class PretendCuda(TorchDispatchMode):
    """The device; use it in a `with` block, one at a time.

    Args:
        runs_triton: whether Triton's interpreter runs its kernels, which takes most of the time; without it what they
            give is undefined, which is enough to count.

    Attributes:
        launches: what a GPU would launch, by operation.
        launch_places: the same by line of the package.
        waits: where the host would wait for the device: (reason, line).
        captured: what a GPU would run of graphs, whose launch counts as one.
        custom: calls of registered operations, by name.
        triton: launches of kernels in Triton, those of graphs among them.
        regions: the operations of each replay of a captured step: what it is, shapes and dtypes, line of the package.
        traffic: what each launch of the last replay moves.
    """

    _current: "PretendCuda | None" = None

    def __init__(self, runs_triton: bool = True) -> None:
        super().__init__()
        self.runs_triton = runs_triton
        self.regions: list[list[tuple[Any, ...]]] = []
        self._region: list[tuple[Any, ...]] | None = None
        self.traffic: list[traffic.Launch] = []
        self.reset()

    def capture(self, body: Any, stream: Any) -> Any:
        """In the place of `headfields.runs.step_graph.capture_launches`: a replay runs the body again, on what it was
        given when it was captured, and is recorded."""

        def replay() -> None:
            self._region, self.captured, self.traffic = [], 0, []
            waits = sum(self.waits.values())
            body()
            waits = sum(self.waits.values()) - waits
            self.regions.append([*self._region, ("waits", waits)])
            self._region = None
            if waits:  # a GPU refuses to capture that, and the trainer launches each by itself
                self.launches["not captured"] += self.captured
                self.captured = 0
            else:
                self.count_launch("a graph")

        return replay

    @contextlib.contextmanager
    def new_waits(self) -> Iterator[list[str]]:
        """In the place of `headfields.runs.step_graph.waits`."""
        found: list[str] = []
        before = self.waits.copy()
        yield found
        found += [f"{place} ({reason})" for reason, place in self.waits - before]

    @classmethod
    def current(cls) -> "PretendCuda":
        assert cls._current is not None, "a pretend tensor outlived its device"
        return cls._current

    def __enter__(self) -> "PretendCuda":
        PretendCuda._current = self
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(_visible_device())
        self._stack.enter_context(_counted_warp_launches(self))
        if HAS_TRITON:
            self._stack.enter_context(_counted_triton_launches(self))
        self._stack.enter_context(unittest.mock.patch.object(step_graph, "capture_launches", self.capture))
        self._stack.enter_context(unittest.mock.patch.object(step_graph, "waits", self.new_waits))
        # The order in which a second thread of autograd runs is not that of the mode, which belongs to this thread.
        self._stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._stack.close()
        PretendCuda._current = None

    def reset(self) -> None:
        """Sets all counts to zero."""
        self.launches: collections.Counter[str] = collections.Counter()
        self.launch_places: collections.Counter[str] = collections.Counter()
        self.waits: collections.Counter[tuple[str, str]] = collections.Counter()
        self.custom: collections.Counter[str] = collections.Counter()
        self.captured = self.triton = 0

    def counts(self) -> dict[str, Any]:
        """The counts since the last reset: totals, and waits and launches by line of the package."""
        return {
            "launches": sum(self.launches.values()),
            "registered": sum(self.custom.values()),
            "captured": self.captured,
            "triton": self.triton,
            "waits": sum(self.waits.values()),
            "waits_at": {f"{reason}, {place}": count for (reason, place), count in sorted(self.waits.items())},
            "launches_at": dict(self.launch_places.most_common()),
        }

    def count_wait(self, reason: str) -> None:
        self.waits[reason, _place()] += 1

    def count_launch(self, name: str) -> None:
        if self._region is not None:  # a replay launches the whole graph at once
            self.captured += 1
            return
        self.launches[name] += 1
        self.launch_places[_place()] += 1

    def note_traffic(self, operation: Any, args: Any, kwargs: Any, results: Any) -> None:
        """Notes what an operation of a captured step moves, given its values."""
        name = operation.overloadpacket.__name__
        if self._region is None or operation.namespace != "aten" or name in NO_LAUNCH:
            return
        if name in ("to", "contiguous", "reshape") and results.data_ptr() == args[0].data_ptr():
            return  # it is that already
        moved = traffic.of_operation(operation, args, kwargs, results)
        self.traffic.append(traffic.Launch(name, _place(), moved))

    def note_kernel(self, name: str, moved: int, requested: int = 0) -> None:
        """Notes what a kernel of a captured step moves."""
        if self._region is not None:
            self.traffic.append(traffic.Launch(name, _place(), moved, requested))

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        leaves = _leaves((args, kwargs))
        ours = [leaf for leaf in leaves if isinstance(leaf, PretendTensor)]
        theirs = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and not isinstance(leaf, PretendTensor)]
        device = next((leaf for leaf in leaves if isinstance(leaf, torch.device)), None)
        asked = device is not None and device.type == "cuda"
        name, namespace = operation.overloadpacket.__name__, operation.namespace
        if self._region is not None:
            self._region.append((str(operation), *map(_kind, leaves), _place()))
        if name == "_pin_memory":  # there is nothing to pin it for: a copy that says so, of the same strides as torch's
            pinned = torch.empty_strided(args[0].shape, args[0].stride(), dtype=args[0].dtype).copy_(args[0])
            pinned.is_pretended_pinned = True
            return pinned
        if not ours and not asked:
            return operation(*args, **kwargs)
        stays = True
        if name in ("_to_copy", "copy_", "_copy_from"):
            stays = self._transfer(name, args, kwargs, device)
        else:
            self._refuse_mixed(operation, name, args, ours, theirs)
        if namespace == "headfields":
            results = self._run_registered(name, _mapped(_values, (args, kwargs)))
        else:
            self._count(operation, args, kwargs)
            args, kwargs = _mapped(_values, (args, kwargs))
            if kwargs.get("pin_memory"):
                kwargs["pin_memory"] = False
            results = operation(*args, **kwargs)
            self.note_traffic(operation, args, kwargs, results)
        if not stays:
            return results
        if name in RESHAPING_IN_PLACE:  # the shape that PyTorch's core knows of ours follows
            with torch._C._DisableTorchDispatch():
                operation(ours[0], *args[1:], **kwargs)
            return ours[0]
        known = {id(tensor.values): tensor for tensor in ours}  # what an operation in place returns

        def wrap(leaf: Any) -> Any:
            if not isinstance(leaf, torch.Tensor) or isinstance(leaf, PretendTensor):
                return leaf
            return known[id(leaf)] if id(leaf) in known else PretendTensor(leaf)

        return _mapped(wrap, results)

    def _transfer(self, name: str, args: Any, kwargs: Any, device: torch.device | None) -> bool:
        """Counts a copy between devices; whether the result is on ours."""
        if name == "_to_copy":
            source, target = args[0], None
            here, there = isinstance(source, PretendTensor), isinstance(source, PretendTensor)
            if device is not None:
                there = device.type == "cuda"
            late = bool(kwargs.get("non_blocking"))
        else:
            target, source = args[0], args[1]
            here, there = isinstance(source, PretendTensor), isinstance(target, PretendTensor)
            late = len(args) > 2 and bool(args[2])
        if here and not there:
            self.count_wait("copy to the host")
        elif there and not here and not (late and hasattr(source, "is_pretended_pinned")):
            self.count_wait("copy to the device")
        return there

    @staticmethod
    def _refuse_mixed(operation: Any, name: str, args: Any, ours: Any, theirs: Any) -> None:
        mixed = [tensor for tensor in theirs if tensor.ndim]  # a number on the host may stand anywhere
        if mixed and name in INDEXING and isinstance(args[0], PretendTensor):  # PyTorch copies indices, and waits
            indices = {id(index) for index in args[1] if isinstance(index, torch.Tensor)}
            if any(id(tensor) in indices for tensor in mixed):
                PretendCuda.current().count_wait("copy of indices to the device")
            mixed = [tensor for tensor in mixed if id(tensor) not in indices]
        if mixed:
            raise RuntimeError(
                f"{operation}: tensors on cuda:0 {[tuple(tensor.shape) for tensor in ours]} and on the CPU "
                f"{[tuple(tensor.shape) for tensor in mixed]}, at {_place()}"
            )

    def _count(self, operation: Any, args: Any, kwargs: Any) -> None:
        if operation.namespace == "c10d":
            self.count_launch(operation.overloadpacket.__name__)
        if operation.namespace != "aten":
            return
        name, overload = operation.overloadpacket.__name__, operation._overloadname
        if name in INDEXING:
            masks = [index for index in args[1] if isinstance(index, torch.Tensor) and not index.dtype.is_signed]
            fills = len(args) > 2 and args[2].numel() == 1  # one number into a mask is masked_fill
            if masks and not fills:
                self.count_wait("boolean mask")
        elif name == "repeat_interleave":
            if kwargs.get("output_size") is None:
                self.count_wait(name)
        elif name in WAITING or TAGGED & set(operation.tags) or (name == "normal" and overload.endswith("_Tensor")):
            self.count_wait(name)  # a tensor of deviations is checked for negative ones
        if name not in NO_LAUNCH:
            self.count_launch(name)

    def _run_registered(self, name: str, call: tuple[Any, Any]) -> Any:
        self.custom[name] += 1
        definition: Any = torch._library.custom_ops.OPDEFS[f"headfields::{name}"]
        args, kwargs = call
        args = [list(argument) if type(argument).__name__ == "immutable_list" else argument for argument in args]
        with dispatch.use_cpu_backend("warp"), _unchecked(), torch.no_grad(), _InsideOperation(self):
            return definition._init_fn(*args, **kwargs)


class _InsideOperation(TorchDispatchMode):
    """Counts what a registered operation does, on its values, as if these were on the device."""

    def __init__(self, device: PretendCuda) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.device._region is not None:
            leaves = _leaves((args, kwargs or {}))
            self.device._region.append((str(operation), *map(_kind, leaves), _place()))
        if torch._C._dispatch_has_kernel_for_dispatch_key(
            operation.name(), "CompositeImplicitAutograd"
        ):  # below autograd these come whole: what they are made of is launched, and a reshape may be a view
            with self:
                made = operation.decompose(*args, **(kwargs or {}))
            if made is not NotImplemented:
                return made
        self.device._count(operation, args, kwargs or {})
        results = operation(*args, **(kwargs or {}))
        self.device.note_traffic(operation, args, kwargs or {}, results)
        return results


@contextlib.contextmanager
def _unchecked() -> Iterator[None]:
    """Within the block operations check no values, as on a GPU, though they are given tensors on the CPU."""
    modules = (_checks, compositing, occupancy)
    for module in modules:
        module.checks_indices = lambda device: False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in modules:
            module.checks_indices = dispatch.checks_indices


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """A function of each leaf of tuples, lists and dictionaries; PyTorch's, which knows more, takes half of the time of
    a step here."""
    if isinstance(value, tuple):
        return tuple([_mapped(function, each) for each in value])
    if isinstance(value, list):
        return [_mapped(function, each) for each in value]
    if isinstance(value, dict):
        return {name: _mapped(function, each) for name, each in value.items()}
    return function(value)


def _leaves(value: Any) -> list[Any]:
    leaves: list[Any] = []
    _mapped(leaves.append, value)
    return leaves


def _values(leaf: Any) -> Any:
    if isinstance(leaf, PretendTensor):
        return leaf.values
    return torch.device("cpu") if isinstance(leaf, torch.device) and leaf.type == "cuda" else leaf


def _kind(leaf: Any) -> Any:
    """What a captured operation fixes of an argument."""
    if isinstance(leaf, torch.Tensor):
        return type(leaf).__name__, tuple(leaf.shape), leaf.stride(), leaf.dtype
    if isinstance(leaf, float):
        return repr(leaf)  # NaN is not itself
    return leaf if isinstance(leaf, bool | int | float | str | torch.dtype | None) else type(leaf).__name__


def _place() -> str:
    """The innermost line of the package on the stack."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith(PACKAGE):
            return f"{frame.f_code.co_filename[len(PACKAGE) + 1 :]}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "(autograd)"


class _Stream:
    """The one stream that there is."""

    def __init__(self, device: Any = None) -> None:
        pass

    def wait_stream(self, stream: "_Stream") -> None:
        pass


@contextlib.contextmanager
def _visible_device() -> Iterator[None]:
    """Within the block, `torch.cuda` has one device, whose random numbers are the CPU's."""
    replaced = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "mem_get_info": lambda device=None: (80 << 30, 80 << 30),
        "current_device": lambda: 0,
        "get_device_name": lambda device=None: "pretend",
        "get_device_capability": lambda device=None: (9, 0),
        "is_bf16_supported": lambda including_emulation=True: True,
        "device_of": lambda tensor: contextlib.nullcontext(),
        "synchronize": lambda device=None: PretendCuda.current().count_wait("synchronize"),
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "Stream": _Stream,
        "current_stream": lambda device=None: _Stream(),
        "stream": lambda stream: contextlib.nullcontext(),
        "set_rng_state": lambda state, device=None: torch.set_rng_state(state),
    }
    kept = {name: getattr(torch.cuda, name) for name in replaced}
    swap = torch.__future__.get_swap_module_params_on_conversion()
    torch._C._set_only_lift_cpu_tensors(True)
    torch.__future__.set_swap_module_params_on_conversion(True)  # `.to` keeps a parameter, as on a GPU
    try:
        for name, value in replaced.items():
            setattr(torch.cuda, name, value)
        yield
    finally:
        for name, value in kept.items():
            setattr(torch.cuda, name, value)
        torch.__future__.set_swap_module_params_on_conversion(swap)
        torch._C._set_only_lift_cpu_tensors(False)


@contextlib.contextmanager
def _counted_warp_launches(device: PretendCuda) -> Iterator[None]:
    wp = dispatch.warp()
    launch = wp.launch

    def counted(kernel: Any, *args: Any, **kwargs: Any) -> Any:
        device.count_launch(f"warp {kernel.key}")
        device.note_kernel(f"warp {kernel.key}", *traffic.of_warp(kernel, args[0], args[1], wp))
        return launch(kernel, *args, **kwargs)

    wp.launch = counted
    try:
        yield
    finally:
        wp.launch = launch


@contextlib.contextmanager
def _counted_triton_launches(device: PretendCuda) -> Iterator[None]:
    """Within the block networks run in Triton, though registered operations are given tensors on the CPU."""
    from triton.runtime.interpreter import GridExecutor

    call = GridExecutor.__call__

    def counted(executor: Any, *args: Any, **kwargs: Any) -> Any:
        device.count_launch(f"triton {executor.fn.__name__}")
        given = [each for each in (*args, *kwargs.values()) if isinstance(each, torch.Tensor)]
        device.note_kernel(f"triton {executor.fn.__name__}", sum(map(traffic.size_of, given)))
        device.triton += 1
        return call(executor, *args, **kwargs) if device.runs_triton else None

    modules: Any = sys.modules["headfields.ops.mlp"], sys.modules["headfields.ops.grouped_linear"]
    with (
        unittest.mock.patch.object(GridExecutor, "__call__", counted),
        unittest.mock.patch.object(modules[0], "_has_triton", lambda x: True),
        unittest.mock.patch.object(modules[1], "has_tiles", lambda device: True),
    ):
        yield
