import base64
import os
import pickle
import sys
import types
import zlib

import numpy as np
import pytest
import scipy.sparse

from headfields.files.unpickler import UnsafePickleError, load_pickle, to_array
from tests.tables import table


class Runs:
    def __reduce__(self):
        return os.system, ("echo this must not run > /dev/null",)


@table("protocol", [0, 1, 2, 4, 5])
def test_reads_arrays_scalars_and_sparse_matrices(protocol):
    content = {
        "array": np.arange(6.0).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "scalar": np.float32(1.5),
        "sparse": scipy.sparse.csc_matrix(np.eye(3)),
        "nested": [("a", {"b": None})],
    }
    loaded = load_pickle(pickle.dumps(content, protocol=protocol))
    np.testing.assert_array_equal(loaded["array"], content["array"])
    np.testing.assert_array_equal(loaded["fortran"], content["fortran"])
    assert loaded["scalar"] == 1.5 and loaded["nested"] == [("a", {"b": None})]
    np.testing.assert_array_equal(to_array(loaded["sparse"]), np.eye(3))


def test_reads_python_2_pickles_as_latin1():
    # protocol 2 as Python 2 wrote it: __builtin__ and copy_reg names, byte strings
    data = b"\x80\x02}q\x00U\x01kq\x01U\x02\xe9xq\x02s."
    assert load_pickle(data) == {"k": "éx"}


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_refuses_code_by_name(protocol):
    with pytest.raises(UnsafePickleError, match=r"(posix|nt)\.system"):
        load_pickle(pickle.dumps({"v_template": Runs()}, protocol=protocol))


@table("name", ["builtins\neval", "os\nsystem", "numpy\nload", "subprocess\nPopen", "builtins\ngetattr", "torch\nload"])
def test_refuses_every_other_global(name):
    with pytest.raises(UnsafePickleError, match=name.replace("\n", r"\.")):
        load_pickle(f"c{name}\n.".encode())


def test_refuses_a_dotted_way_around():
    # protocol 4 resolves dotted names attribute by attribute; "numpy" + "ndarray.__class__" must not pass
    with pytest.raises(UnsafePickleError):
        load_pickle(b"\x80\x04\x8c\x05numpy\x8c\x11ndarray.__class__\x93.")


def chumpy_module(monkeypatch):
    module, reordering = types.ModuleType("chumpy.ch"), types.ModuleType("chumpy.reordering")

    class Ch:
        pass

    class Select:
        pass

    Ch.__module__, Select.__module__ = "chumpy.ch", "chumpy.reordering"
    Ch.__qualname__, Select.__qualname__ = "Ch", "Select"
    module.Ch, reordering.Select = Ch, Select
    package = types.ModuleType("chumpy")
    for name, value in (("chumpy", package), ("chumpy.ch", module), ("chumpy.reordering", reordering)):
        monkeypatch.setitem(sys.modules, name, value)
    return Ch, Select


@pytest.mark.parametrize("protocol", [0, 2])
def test_chumpy_objects_become_inert_and_give_their_arrays(monkeypatch, protocol):
    make, select = chumpy_module(monkeypatch)
    plain, picked, odd = make(), select(), make()
    plain.x = np.arange(12.0).reshape(4, 3)
    picked.a, picked.idxs, picked.preferred_shape = plain, np.array([0, 1, 5, 7]), (2, 2)
    odd.terms = ["something"]
    data = pickle.dumps({"plain": plain, "picked": picked, "odd": odd}, protocol=protocol)
    for name in ("chumpy", "chumpy.ch", "chumpy.reordering"):
        monkeypatch.delitem(sys.modules, name)
    loaded = load_pickle(data)
    np.testing.assert_array_equal(to_array(loaded["plain"]), np.arange(12.0).reshape(4, 3))
    np.testing.assert_array_equal(to_array(loaded["picked"]), [[0, 1], [5, 7]])
    with pytest.raises(ValueError, match=r"weights is a chumpy\.ch\.Ch"):
        to_array(loaded["odd"], "weights")


# What chumpy 0.70 itself pickles (protocol 2) of c = chumpy.array(arange(12).reshape(2, 3, 2)), c[:, :, :1],
# c.reshape((3, 4)), chumpy.transpose(c[:, :, 0]) and c * 2, in base 85 of zlib.
CHUMPY = (
    "c-pN~J&)5s5Vf5zXLFDc=eV3ife=DT6G2CT#7T5mN?{r|C(E(-7>mUAe)zZ)k+>oW{x|#wei*EGmrDRsoWvG>YtQV=y!X6ctj)x4"
    "8HSNB!z7I&C|3D;76Ez(h#1pbVv2ZA#Dh4Yd>veelo2Zmf<=)md6EVJVwfY+xZHYvv&u_2CC#}yvkE`qAjT=fq*eMScb`};%3#ti"
    "{edivbDYL3$kJ-dNN3}l;`<G;qg2ilL>a}iRUtZtl!j{*P#k3`<FtrG^R7xmX{@3IxyCjUhhiKtgwtw+NKY1B_-*lAhGO<t<YecO"
    "2YYYgny%$GTx+ij#eAKM6Ayh$<X*ilzwSNKpSTTK;SCwg=kxbJ#F7u!;ENJ^erWu;zJGhGcNYq5jRTD%jbn{ZG(Oe%OyhHnFD^ig"
    "%ol#Al8y0@7tC*neTqL9iW$R89PwX9Qk>Bk(<J?fKF9zfkEXYq30Tm$ocR69c#5wur8o{4ggGWdNirmkv@?ls7#ZQM2Q{9a)_D53"
    "gw6&=(1pqb(CW6gpu|j+m}f#vsF(5Ok${%QrpC5LTO-n_Q~?J}7)mG2eW666ShA|o!&4D-B!{h(R62~osi*xnX-Ro3+BSF945D>c"
    "WN;d$EYDb7^SjugJviZg+BtA!Bn-v7b_q^P_@@bH|4ZRrvCs<VG>ePF9~VK8<qXNYnlIN!@`9r-AUVhPBWl7q7zdqfr4zJDXv+-y"
    "cb-$|S1j!VNquXok&D?+B=1gW"
)


def test_reads_what_chumpy_itself_wrote():
    loaded = load_pickle(zlib.decompress(base64.b85decode(CHUMPY)))
    plain = np.arange(12.0).reshape(2, 3, 2)
    assert loaded["select"].name == "chumpy.reordering.Select"
    for name, expected in {
        "plain": plain,
        "select": plain[:, :, :1],
        "reshape": plain.reshape(3, 4),
        "transpose": plain[:, :, 0].T,
    }.items():
        np.testing.assert_array_equal(to_array(loaded[name], name), expected, err_msg=name)
    with pytest.raises(ValueError, match=r"shapedirs is a chumpy\.ch_ops\.multiply"):
        to_array(loaded["product"], "shapedirs")


def test_a_chumpy_selection_stays_within_its_array(monkeypatch):
    make, select = chumpy_module(monkeypatch)
    picked = select()
    picked.a, picked.idxs = make(), np.array([99])
    picked.a.x = np.zeros(3)
    with pytest.raises(ValueError, match="idxs reach beyond its 3 numbers"):
        to_array(load_pickle(pickle.dumps(picked, protocol=2)), "v")


def test_arrays_of_objects_are_refused():
    with pytest.raises(ValueError, match="v is an array of Python objects"):
        to_array(np.array([{}, {}], dtype=object), "v")
