"""Files that want to run code, or to have memory read that is not theirs. Nothing of them may happen."""

import builtins
import io
import os
import pickle
import subprocess
import zipfile

import numpy as np
import pytest
import scipy.sparse
import torch

from headfields.files.arrays import load_arrays
from headfields.files.unpickler import UnsafePickleError, load_pickle, load_torch, to_array
from headfields.heads import FlameHead
from headfields.heads.flame.assets import read_masks
from headfields.heads.landmarks import Landmarks
from tests.tables import table


class Calls:
    """Pickles as a call of anything."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.fixture
def mark(tmp_path):
    """A file that exists once any of these tests has run code."""
    path = tmp_path / "ran"
    yield path
    assert not path.exists(), "a file ran code"


def wishes(mark):
    """What hostile pickles want, and the name that the refusal must have."""
    command = f"echo > {mark}"
    return {
        "os.system": Calls(os.system, command),
        "builtins.eval": Calls(builtins.eval, f"open({str(mark)!r}, 'w')"),
        "builtins.exec": Calls(builtins.exec, f"open({str(mark)!r}, 'w')"),
        "subprocess.Popen": Calls(subprocess.Popen, ["sh", "-c", command]),
        "subprocess.check_output": Calls(subprocess.check_output, ["sh", "-c", command]),
        "builtins.getattr": Calls(getattr, Calls(__import__, "os"), "system"),
        "io.open": Calls(open, str(mark), "w"),
        "shutil.rmtree": Calls(__import__("shutil").rmtree, str(mark.parent / "nothing")),
        "numpy.load": Calls(np.load, str(mark), None, True),
        "torch.serialization.load": Calls(torch.load, str(mark)),
        "operator.attrgetter": __import__("operator").attrgetter("system"),
    }


NAMES = sorted(wishes(__import__("pathlib").Path("x")))


def written_name(name):
    """As Python 2 and Python 3 pickles write it: getattr's chain imports first; protocols below 3 say __builtin__."""
    last = {"builtins.getattr": "(getattr|__import__)"}.get(name, name.rpartition(".")[2])
    return rf"names \w+(\.\w+)*\.{last}\b|\({name}\)"


@table("protocol", range(6))
@table("name", NAMES)
def test_code_is_refused_by_name_in_every_protocol(mark, name, protocol):
    payload = {"v_template": np.zeros((3, 3)), "f": wishes(mark)[name]}
    with pytest.raises(UnsafePickleError, match=written_name(name)):
        load_pickle(pickle.dumps(payload, protocol=protocol))


@table("protocol", range(6))
def test_code_within_arrays_of_objects_is_refused(mark, protocol):
    hostile = np.empty((2, 1), object)
    hostile[1, 0] = [{"deep": (Calls(os.system, f"echo > {mark}"),)}]
    with pytest.raises(UnsafePickleError, match=r"os\.system"):
        load_pickle(pickle.dumps({"J_regressor": hostile}, protocol=protocol))


def npz(path, **arrays):
    np.savez(path, **{name: np.array(value, dtype=object) for name, value in arrays.items()})
    return path


def test_the_refusal_names_file_and_entry(tmp_path, mark):
    path = npz(tmp_path / "model.npz", weights=Calls(os.system, f"echo > {mark}"))
    with pytest.raises(UnsafePickleError, match=r"model\.npz: weights: the file names .*os\.system"):
        load_arrays(path)
    with pytest.raises(UnsafePickleError, match=r"os\.system"):
        FlameHead.from_file(path)
    npy = tmp_path / "flame_dynamic_embedding.npy"
    np.save(npy, np.array({"lmk_face_idx": Calls(os.system, f"echo > {mark}")}, dtype=object))
    with pytest.raises(UnsafePickleError, match=r"flame_dynamic_embedding\.npy: .*os\.system"):
        Landmarks.from_file(npy)
    masks = tmp_path / "FLAME_masks.pkl"
    masks.write_bytes(pickle.dumps({"face": Calls(builtins.eval, "1")}))
    with pytest.raises(UnsafePickleError, match=r"FLAME_masks\.pkl: .*eval"):
        read_masks(masks)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_files_of_torch_save_is_refused(tmp_path, mark, zipped):
    path = tmp_path / "00000.frame"
    content = {"flame": {"exp": torch.zeros(1, 3)}, "frame_id": Calls(os.system, f"echo > {mark}")}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafePickleError, match=r"00000\.frame: .*os\.system"):
        load_arrays(path)


def test_code_within_a_pickled_tensor_is_refused(mark):
    # A pickled tensor holds its storage as a file of torch.save of its own, which torch reads with the plain unpickler.
    inner = io.BytesIO()
    torch.save(Calls(os.system, f"echo > {mark}"), inner, _use_new_zipfile_serialization=False)
    hostile = Calls(torch.storage._load_from_bytes, inner.getvalue())
    with pytest.raises(UnsafePickleError, match=r"os\.system"):
        load_pickle(pickle.dumps({"lmk": hostile}))


def test_nested_files_end(mark):
    data = b""
    for _ in range(6):
        inner = io.BytesIO()
        torch.save(Calls(torch.storage._load_from_bytes, data), inner, _use_new_zipfile_serialization=False)
        data = inner.getvalue()
    with pytest.raises(ValueError, match="nested too deeply"):
        load_torch(data)


def global_(module, name):
    return f"c{module}\n{name}\n".encode()


@table(
    ("data", "reason"),
    [
        # the state of what a pickle may mention stays as it is: __defaults__, attributes of classes
        (
            global_("_codecs", "encode") + b"(N}S'__defaults__'\n(S'x'\nt" + b"stb.",
            "the state of _codecs.encode is set",
        ),
        (global_("numpy", "ndarray") + b"(N}S'shape'\nI1\nstb.", "the state of numpy.ndarray is set"),
        (global_("numpy", "ndarray") + b"(I9999999999\ntR.", "numpy.ndarray is called"),
        # memory by the number
        (global_("__builtin__", "bytearray") + b"(I99999999999\ntR.", "bytes are made of a int"),
        (global_("__builtin__", "bytes") + b"(I99999999999\ntR.", "bytes are made of a int"),
        (global_("_codecs", "encode") + b"(S'x'\nS'rot13'\ntR.", "encoded as 'rot13'"),
        (global_("copy_reg", "_reconstructor") + global_("__builtin__", "dict")[:-1] + b"\nNNtR.", ""),
        (b"S'0'\nP0\n.", "refers to"),
        (b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.", ""),
        (b"", ""),
        (b"\x80\x02}q\x00", ""),
        (b"not a pickle at all", ""),
    ],
)
def test_malformed_pickles_are_a_value_error(data, reason):
    with pytest.raises(ValueError, match=rf"bytes: not a pickle of arrays that can be read: .*{reason}"):
        load_pickle(data)


def test_a_dtype_cannot_pass_bytes_for_objects():
    """numpy takes a dtype's flags from the file: with them 0, the bytes of an array would be taken for pointers."""
    state = (3, "|", None, None, None, -1, -1, 0)

    class Dtype:
        def __reduce__(self):
            return np.dtype, ("O8", False, True), state

    class Array:
        def __reduce__(self):
            reconstruct = np.zeros(0).__reduce__()[0]
            return reconstruct, (np.ndarray, (0,), b"b"), (1, (2,), Dtype(), False, b"A" * 16)

    with pytest.raises(ValueError, match="array of objects of shape"):
        load_pickle(pickle.dumps(Array()))


@pytest.mark.parametrize(
    ("shape", "dtype", "data"),
    [((3,), "f8", b"x" * 8), ((-1,), "f8", b""), ((2**62,), "f8", b""), ((1,), "V8", b"x" * 8)],
)
def test_arrays_have_the_bytes_that_their_shape_says(shape, dtype, data):
    class Array:
        def __reduce__(self):
            reconstruct = np.zeros(0).__reduce__()[0]
            return reconstruct, (np.ndarray, (0,), b"b"), (1, shape, np.dtype(dtype), False, data)

    with pytest.raises(ValueError, match=r"an array (of shape|has the shape|has the dtype)"):
        load_pickle(pickle.dumps(Array()))


def test_sparse_matrices_are_checked():
    matrix = scipy.sparse.csc_matrix(np.eye(3))
    matrix.indices[1] = 10**6  # scipy would write there
    with pytest.raises(ValueError, match="not a pickle of arrays"):
        load_pickle(pickle.dumps(matrix))


@pytest.mark.parametrize(
    ("size", "stride", "offset"), [((9,), (1,), 0), ((2,), (6,), 0), ((1,), (1,), 6), ((1,), (-1,), 2)]
)
def test_tensors_stay_within_their_storage(size, stride, offset):
    storage = torch.zeros(6).storage()

    class Tensor:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (storage, offset, size, stride, False, {})

    with pytest.raises(ValueError, match="a tensor of size"):
        load_pickle(pickle.dumps(Tensor()))


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_cut_short(tmp_path, zipped):
    path = tmp_path / "a.frame"
    torch.save({"x": torch.arange(1000.0)}, path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    for part in (0.2, 0.6, 0.95):
        path.write_bytes(data[: int(part * len(data))])
        with pytest.raises(ValueError, match=r"a\.frame"):
            load_arrays(path)


def test_an_archive_that_lies_about_a_storage(tmp_path):
    path = tmp_path / "a.frame"
    torch.save({"x": torch.arange(1000.0)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data[:100] if "/data/" in name else data)
    with pytest.raises(ValueError, match=r"storage of 1000 torch.float32 has 100 bytes"):
        load_arrays(path)


@table("protocol", range(6))
def test_torch_tensors_in_pickles(protocol):
    base = torch.arange(12.0).reshape(3, 4)
    content = {
        "plain": base, "part": base[1:, ::2], "turned": base.T, "whole": torch.arange(3), "none": torch.empty(0, 2),
        "parameter": torch.nn.Parameter(base), "half": base.half(), "brain": base.bfloat16(), "flag": base > 3,
        "size": base.shape,
    }  # fmt: skip
    loaded = load_pickle(pickle.dumps(content, protocol=protocol))
    for name, value in content.items():
        if name == "size":
            assert loaded[name] == (3, 4)
        else:
            assert torch.equal(loaded[name], value) and loaded[name].dtype == value.dtype, name
            np.testing.assert_array_equal(to_array(loaded[name]), value.detach().float().numpy())


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_share_what_they_shared(tmp_path, zipped):
    base = torch.arange(6.0)
    torch.save(
        {"a": base, "b": base[2:], "c": np.arange(3), "d": [1, "x"]},
        tmp_path / "f",
        _use_new_zipfile_serialization=zipped,
    )
    loaded = load_arrays(tmp_path / "f")
    loaded["a"][2] = -1
    assert loaded["b"][0] == -1 and loaded["c"].tolist() == [0, 1, 2] and loaded["d"] == [1, "x"]


def test_npz_and_npy_of_objects_are_read(tmp_path):
    regressor = scipy.sparse.csc_matrix(np.eye(3))
    path = npz(tmp_path / "model.npz", J_regressor=regressor, table={"a": np.arange(2)})
    np.savez(tmp_path / "more.npz", v=np.arange(6.0).reshape(2, 3), empty=np.zeros((0, 3)))
    loaded = load_arrays(path)
    np.testing.assert_array_equal(to_array(loaded["J_regressor"]), np.eye(3))
    assert loaded["table"]["a"].tolist() == [0, 1]
    assert load_arrays(tmp_path / "more.npz")["empty"].shape == (0, 3)
    np.save(tmp_path / "a.npy", np.arange(3))
    with pytest.raises(ValueError, match=r"a\.npy holds a ndarray of shape \(3,\); expected a dict"):
        load_arrays(tmp_path / "a.npy")
    data = (tmp_path / "more.npz").read_bytes()
    for part in (0.1, 0.5, 0.9):
        (tmp_path / "cut.npz").write_bytes(data[: int(part * len(data))])
        with pytest.raises(ValueError, match=r"cut\.npz"):
            load_arrays(tmp_path / "cut.npz")
    whole = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "huge.npy").write_bytes(whole.replace(b"(3,)", b"(99999999999999,)").replace(b" " * 14 + b"\n", b" \n"))
    with pytest.raises(ValueError, match=r"huge\.npy: not a whole npy array"):
        load_arrays(tmp_path / "huge.npy")
    with pytest.raises(FileNotFoundError, match=r"none\.npz is not a file"):
        load_arrays(tmp_path / "none.npz")


def test_shared_and_cyclic_containers():
    inner = [np.arange(2)]
    cyclic = {"a": inner, "b": inner}
    cyclic["self"] = cyclic
    loaded = load_pickle(pickle.dumps(cyclic))
    assert loaded["a"] is loaded["b"] and loaded["self"] is loaded
    with pytest.raises(ValueError, match="nested more than 100 levels deep"):
        load_pickle(b"]" * 50_000 + b"a" * 49_999 + b".")
