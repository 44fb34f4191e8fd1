"""Files that ask for memory that they do not hold, that nest without end, or that send a reader out of its arrays."""

import functools
import io
import json
import pickle
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch

from headfields.files.arrays import load_arrays, load_npy
from headfields.files.images import open_image
from headfields.files.reading import read_json, reading
from headfields.files.safetensors import read_safetensors
from headfields.files.unpickler import load_pickle, to_array
from headfields.files.versions import FileFormat
from headfields.mesh.obj import ObjReader
from tests.files.sandbox import outcomes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")

DEEP = 180_000
NUMBERS = b"\x8c\x13numpy._core.numeric\x8c\x0b_frombuffer\x93"


class Calls:
    """Pickles as a call."""

    def __init__(self, function, *arguments, state=None):
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.call


def sparse(kind, shape, **arrays):
    return pickle.dumps(
        {
            "J": Calls(
                __import__("copyreg")._reconstructor,
                getattr(scipy.sparse, f"{kind}_matrix"),
                object,
                None,
                state={"_shape": shape, "maxprint": 50, "data": np.arange(1.0, 4.0), **arrays},
            )
        }
    )


def ints(*values):
    return np.array(values, np.int32)


def doubling(kind, levels):
    """Operations for a list (or tuple) of two of the same list of two of the same list ..."""
    first, two = {"list": (b"](NNe", b"](h%ch%ce"), "tuple": (b"NN\x86", b"h%ch%c\x86")}[kind]
    steps = [first] + [two % (level, level) for level in range(levels)]
    return b"0".join(step + b"q" + bytes([level]) for level, step in enumerate(steps))


def shared(entry, count, each):
    """A list of what `each` makes, `count` times, of one big entry."""
    return b"\x80\x04" + pickle.dumps(entry, 3)[2:-1] + b"q\xf0](" + each * count + b"e."


def npy(header, data=b"", version=(1, 0)):
    text = header.encode() if isinstance(header, str) else repr(header).encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    size = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + size + text + data


def header(shape, descr="<f8"):
    return {"descr": descr, "fortran_order": False, "shape": shape}


def torch_file(tensor):
    file = io.BytesIO()
    torch.save({"x": tensor}, file)
    return file.getvalue()


def torch_zip(pickled, compression=zipfile.ZIP_STORED, **storages):
    """A file of `torch.save` with this pickle and these storages."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression, compresslevel=1) as out:
        out.writestr("a/data.pkl", b"\x80\x02" + pickled + b".")
        out.writestr("a/version", "3\n")
        for name, data in storages.items():
            out.writestr(f"a/data/{name.strip('_')}", data)
    return file.getvalue()


def rebuilt(count, *view):
    """Operations for a dict of a tensor of `count` floats in storage 0."""
    many = b"J" + struct.pack("<i", count)
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu" + many + b"".join(view) + b"tQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0" + many + b"\x85K\x01\x85\x89}tR"
    return b"}X\x01\0\0\0x" + tensor + b"s"


def legacy_torch(pickled, count):
    """The same in the format before zip, with a storage of no bytes."""
    start = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}]
    parts = [pickle.dumps(each, 2) for each in start]
    return b"".join([*parts, b"\x80\x02" + pickled + b".", pickle.dumps(["0"], 2), struct.pack("<Q", count)])


def archive(data, compression=zipfile.ZIP_DEFLATED, copies=1):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression, compresslevel=1) as out:
        for copy in range(copies):
            out.writestr(f"a{copy}.npy", data)
    return file.getvalue()


@functools.cache
def zeros(gigabytes):
    """An npz of zeros, of a thousandth of their size."""
    file = io.BytesIO()
    shape = (int(gigabytes * 2**27),)
    out = zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
    with out, out.open("a.npy", "w", force_zip64=True) as entry:
        entry.write(npy(header(shape)))
        for _ in range(int(gigabytes * 64)):
            entry.write(bytes(2**24))
    return file.getvalue()


def lying(data):
    """The archive with the sizes that its entries unpack to replaced by 100."""
    out = bytearray(data)
    for mark, place in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = out.find(mark)
        while at >= 0:
            out[at + place : at + place + 4] = struct.pack("<I", 100)
            at = out.find(mark, at + 4)
    return bytes(out)


def png(width, height):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    pressed = zlib.compressobj(1)
    rows = b"".join(pressed.compress(bytes(1 + width)) for _ in range(height)) + pressed.flush()
    start = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", start) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def safetensors(table, data=b""):
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    return struct.pack("<Q", len(text)) + text + data


def read_arrays(path):
    for name, value in load_arrays(path).items():
        to_array(value, f"{path}: {name}")


def read_image(path):
    with reading(path, "an image"), open_image(Path(path)) as image:
        np.asarray(image.convert("RGB"))


def read_mesh(path):
    ObjReader().read(Path(path))


def read_tensors(path):
    read_safetensors(path, FileFormat("k", "a file of tests", 1, "none"))


def read_kept(path):
    """As `read_masks` does, keeps every array."""
    return [to_array(value, f"{path}: {name}") for name, value in load_arrays(path).items()]


CSR = {"indices": ints(0, 1, 2), "indptr": ints(0, 1, 2, 3)}
HOSTILE = {
    # out of its arrays
    "csr_indptr_ends_at_0": (read_arrays, lambda: sparse("csr", (3, 3), **CSR | {"indptr": ints(0, 9, 9, 0)})),
    "csc_indptr_ends_at_0": (read_arrays, lambda: sparse("csc", (3, 3), **CSR | {"indptr": ints(0, 10**6, 9, 0)})),
    "csr_indptr_falls": (read_arrays, lambda: sparse("csr", (3, 3), **CSR | {"indptr": ints(0, 3, 1, 3)})),
    "csr_indptr_negative": (read_arrays, lambda: sparse("csr", (3, 3), **CSR | {"indptr": ints(-9, 1, 2, 3)})),
    "csr_indptr_beyond": (read_arrays, lambda: sparse("csr", (3, 3), **CSR | {"indptr": ints(0, 1, 2, 10**8)})),
    "csr_indptr_short": (read_arrays, lambda: sparse("csr", (3, 3), **CSR | {"indptr": ints(0, 3)})),
    "csc_index_beyond": (read_arrays, lambda: sparse("csc", (3, 3), **CSR | {"indices": ints(0, 1, 10**6)})),
    "csc_index_negative": (read_arrays, lambda: sparse("csc", (3, 3), **CSR | {"indices": ints(0, 1, -(10**6))})),
    "csc_indices_fractional": (read_arrays, lambda: sparse("csc", (3, 3), **CSR | {"indices": np.ones(3)})),
    "coo_row_beyond": (read_arrays, lambda: sparse("coo", (3, 3), row=ints(0, 1, 10**6), col=ints(0, 1, 2))),
    "coo_coords_beyond": (read_arrays, lambda: sparse("coo", (3, 3), coords=(ints(0, 1, -7), ints(0, 1, 2)))),
    "coo_lengths": (read_arrays, lambda: sparse("coo", (3, 3), row=ints(0, 1), col=ints(0, 1, 2))),
    "bsr": (read_arrays, lambda: sparse("bsr", (3, 3), **CSR)),
    # sizes that the file does not hold
    "sparse_wide": (read_arrays, lambda: sparse("csr", (3, 10**10), **CSR)),
    "sparse_many_columns": (read_arrays, lambda: sparse("coo", (10**12, 1), row=ints(0, 1, 2), col=ints(0, 0, 0))),
    "sparse_many": (
        read_kept,
        lambda: pickle.dumps({str(i): scipy.sparse.csr_matrix((1, 10**7)) for i in range(100)}),
    ),
    "memo_index": (load_pickle, lambda: b"\x80\x02}r" + struct.pack("<I", 2**28) + b"."),
    "memo_index_text": (load_pickle, lambda: b"}p4000000000\n."),
    "bytearray8": (load_pickle, lambda: b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"."),
    "frame": (load_pickle, lambda: b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b"}."),
    "stride_0": (read_arrays, lambda: torch_file(torch.zeros(1).expand(10**11))),
    "stride_0_matrix": (read_arrays, lambda: torch_file(torch.zeros(4).expand(10**9, 4))),
    "stride_1_overlaps": (read_arrays, lambda: torch_file(torch.zeros(10**5).unfold(0, 5 * 10**4, 1))),
    # of 3 MB that torch.load(weights_only=True) makes 768; on which it runs out of memory, twice; and crashes
    "torch_deflated": (
        read_arrays,
        lambda: torch_zip(rebuilt(3 * 2**26), zipfile.ZIP_DEFLATED, _0=bytes(3 * 2**28)),
    ),
    "torch_storage_before_zip": (read_arrays, lambda: legacy_torch(rebuilt(2**31 - 1, b"N"), 2**31 - 1)),
    "torch_bytearray": (read_arrays, lambda: torch_zip(b"c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R")),
    "torch_deep_key": (read_arrays, lambda: torch_zip(b"}N" + b"\x85" * DEEP + b"Ns")),
    "shared_lists": (read_arrays, lambda: b"\x80\x04}\x8c\x01a" + doubling("list", 40) + b"s."),
    "shared_tuples": (read_arrays, lambda: b"\x80\x04}\x8c\x01a" + doubling("tuple", 40) + b"s."),
    "strings_of_one_string": (load_pickle, lambda: shared("x" * 10**6, 10**5, b"c_codecs\nencode\nh\xf0\x85R")),
    "lists_of_one_list": (load_pickle, lambda: shared([None] * 10**6, 10**5, b"c__builtin__\nlist\nh\xf0\x85R")),
    "dicts_of_one_list": (
        load_pickle,
        lambda: shared([(i, None) for i in range(10**5)], 10**5, b"c__builtin__\ndict\nh\xf0\x85R"),
    ),
    "arrays_of_one_string": (
        load_pickle,
        lambda: shared(bytes(10**6), 10**5, NUMBERS + b"(h\xf0cnumpy\ndtype\n\x8c\x02u1\x85RJ@B\x0f\x00\x8c\x01CtR"),
    ),
    "chumpy_of_one_dict": (
        load_pickle,
        lambda: shared({str(i): None for i in range(10**5)}, 10**5, b"cchumpy.ch\nCh\n)\x81h\xf0b"),
    ),
    "npz_zeros": (read_arrays, lambda: zeros(0.3)),
    "npz_lies": (read_arrays, lambda: lying(zeros(0.3))),
    "npz_of_many": (read_arrays, lambda: archive(npy(header((2**20,)), bytes(2**23)), copies=40)),
    "npy_shape": (load_npy, lambda: npy(header((10**12,)))),
    "npy_shape_2": (load_npy, lambda: npy(header((10**12,)), version=(2, 0))),
    "npy_shape_3": (load_npy, lambda: npy(header((10**12,)), version=(3, 0))),
    "npy_overflow": (load_npy, lambda: npy(header((2**62, 2**62)))),
    "npy_negative": (load_npy, lambda: npy(header((-1, -(10**12))))),
    "npy_subarray": (load_npy, lambda: npy(header((1,), "(1000000000,)<f8"))),
    "npy_structured": (load_npy, lambda: npy(header((10**9,), [("a", "<f8", (10**6,))]))),
    "npy_no_bytes": (load_npy, lambda: npy(header((10**12,), "|S0"))),
    "npy_empty": (load_npy, lambda: npy(header((0, 10**12)))),
    "npy_deep_header": (load_npy, lambda: npy("(" * 9000)),
    "npy_long_header": (load_npy, lambda: npy("{'descr': '" + "x" * 10**6 + "'}", version=(2, 0))),
    "npy_header_size": (load_npy, lambda: b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}"),
    "npy_objects": (load_npy, lambda: npy(header((10**12,), "|O"), pickle.dumps([]))),
    "safetensors_header_size": (read_tensors, lambda: struct.pack("<Q", 2**62) + b"{}"),
    "safetensors_header_of_100_MB": (read_tensors, lambda: struct.pack("<Q", 99_000_000) + b"{" * 1000),
    "safetensors_shape": (
        read_tensors,
        lambda: safetensors({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}),
    ),
    "safetensors_overflow": (
        read_tensors,
        lambda: safetensors({"a": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 0]}}),
    ),
    "safetensors_deep": (read_tensors, lambda: safetensors(b'{"a":' * 10**5)),
    "safetensors_deep_metadata": (read_tensors, lambda: safetensors({"__metadata__": {"k": '{"a":' * 10**5}})),
    "safetensors_integer": (read_tensors, lambda: safetensors({"__metadata__": {"k": '{"a":' + "9" * 10**6 + "}"}})),
    "safetensors_list": (read_tensors, lambda: safetensors({"__metadata__": {"k": "[1]"}})),
    # nesting
    "deep_key": (load_pickle, lambda: b"}" + b"(" * DEEP + b"t" * DEEP + b"Ns."),
    "deep_key_of_set": (load_pickle, lambda: b"\x80\x04\x8f((" + b"N" + b"\x85" * DEEP + b"\x90."),
    "deep_key_of_frozenset": (load_pickle, lambda: b"\x80\x04(N" + b"\x85" * DEEP + b"\x91."),
    "deep_key_of_dict_call": (load_pickle, lambda: b"c__builtin__\ndict\n]N" + b"\x85" * DEEP + b"N\x86a\x85R."),
    "deep_key_of_set_call": (load_pickle, lambda: b"c__builtin__\nset\n]N" + b"\x85" * DEEP + b"a\x85R."),
    "doubling_key": (load_pickle, lambda: b"\x80\x04}" + doubling("tuple", 60) + b"Ns."),
    "long_integer_key": (
        load_pickle,
        lambda: b"\x80\x04\x8b" + struct.pack("<i", 10**6) + b"x" * 10**6 + b"q\x00}(" + b"h\x00N" * 10**6 + b"u.",
    ),
    "deep_tuples": (load_pickle, lambda: b"N" + b"\x85" * DEEP + b"."),
    "deep_lists": (load_pickle, lambda: b"]" * DEEP + b"a" * (DEEP - 1) + b"."),
    "deep_dicts": (load_pickle, lambda: b"}N" * DEEP + b"}" + b"s" * DEEP + b"."),
    "deep_chumpy": (load_pickle, lambda: b"N" + b"cchumpy.ch\nCh\n)\x81" * 10**5 + b"N" + b"b" * 10**5 + b"."),
    "deep_chumpy_chain": (
        read_arrays,
        lambda: b"\x80\x02}U\x01a" + b"cchumpy.ch\nCh\n)\x81}U\x01x" * 10**4 + b"N" + b"sb" * 10**4 + b"s.",
    ),
    "cyclic_list": (read_arrays, lambda: b"\x80\x02}U\x01a]q\x00h\x00ah\x00as."),
    "cyclic_chumpy": (read_arrays, lambda: b"\x80\x02}U\x01acchumpy.ch\nCh\n)\x81q\x00}U\x01xh\x00sbs."),
    "cyclic_chumpy_selection": (
        read_arrays,
        lambda: b"\x80\x02}U\x01acchumpy.reordering\nSelect\n)\x81q\x00}(U\x01ah\x00U\x04idxsh\x00ubs.",
    ),
    "integer_of_2000_bits": (read_arrays, lambda: pickle.dumps({"a": 1 << 2000})),
    "integers_of_2000_bits": (read_arrays, lambda: pickle.dumps({"a": [1 << 2000, 2]})),
    "integer_of_a_million_digits": (load_pickle, lambda: b"L" + b"9" * 10**6 + b"L\n."),
    "shape_of_long_integers": (
        load_pickle,
        lambda: (
            b"\x80\x05\x8b"
            + struct.pack("<i", 10**6)
            + b"x" * 10**6
            + b"q\x00"
            + NUMBERS
            + b"(C\x01xcnumpy\ndtype\n\x8c\x02u1\x85R("
            + b"h\x00" * 10**5
            + b"t\x8c\x01CtR."
        ),
    ),
    "json_deep": (read_json, lambda: b'{"a":' * DEEP),
    "json_deep_lists": (read_json, lambda: b"[" * DEEP + b"]" * DEEP),
    "json_integer": (read_json, lambda: b'{"a": ' + b"9" * 10**6 + b"}"),
    "json_utf_16": (read_json, lambda: '{"a": 1}'.encode("utf-16")),
    "obj_token": (read_mesh, lambda: b"v 0 0 0\n" * 17_000 + b"v 0 0 " + b"1" * 10**6 + b"x\nf 1 2 3\n"),
    # images
    "png_200_megapixels": (read_image, lambda: png(20_000, 10_000)),
    "png_100_megapixels": (read_image, lambda: png(10_000, 10_000)),
    "png_header_alone": (read_image, lambda: png(8000, 8000)[:60]),
}

RETURNS = {"memo_index", "memo_index_text"}
"""Harmless once nothing is allocated for a number."""


def read_case(case):
    name, path = case
    HOSTILE[name][0](path)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    cases = []
    for name, (_, make) in HOSTILE.items():
        path = folder / f"{name}.file"
        path.write_bytes(make())
        cases.append((name, str(path)))
    return dict(zip(HOSTILE, outcomes(read_case, cases), strict=True))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file(results, name):
    outcome = results[name]
    if name in RETURNS:
        assert outcome.kind == "returned", outcome
        return
    assert outcome.kind == "raised" and "ValueError" in outcome.errors, outcome
    assert not outcome.out_of_memory, outcome
    assert f"{name}.file" in outcome.text, outcome
