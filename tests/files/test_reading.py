"""Errors of readers: documented ones, with the file's name, whatever a parser raises."""

import io
import os
import stat
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from headfields.apps.rigging.landmarks import read_scan_landmarks
from headfields.data import CaptureError
from headfields.data.image_files import image_header
from headfields.files.arrays import load_arrays, load_npy, load_numbers
from headfields.files.images import open_image
from headfields.files.reading import UnsafePickleError, brief, check_file, file_bytes, read_json, reading
from headfields.files.unpickler import load_pickle, load_torch
from headfields.heads import BlendshapeHead
from headfields.runs.folder import RunFolder
from tests.tables import table


@table(
    "failure",
    [KeyError("a"), IndexError("a"), RecursionError("a"), MemoryError(), EOFError(), OverflowError("a"), OSError("a"),
     AssertionError(), zipfile.BadZipFile("a"), ValueError("a")],
)  # fmt: skip
def test_whatever_is_raised_names_the_file(failure):
    words = r"x\.file: not a thing that can be read: .*; do it"
    with pytest.raises(CaptureError, match=words) as caught, reading("x.file", "a thing", CaptureError, "do it"):
        raise failure
    assert caught.value.__cause__ is failure and "\n" not in str(caught.value)


def test_what_names_the_file_stays():
    for failure in (
        UnsafePickleError("x.file: no"),
        FileNotFoundError(2, "No such file", "y.file"),
        CaptureError("frame 3"),
    ):
        with pytest.raises(type(failure)) as caught, reading("x.file", "a thing", CaptureError):
            raise failure
        assert caught.value is failure
    outer, inner = reading("outer", "a thing", CaptureError), reading("inner", "a thing")
    with pytest.raises(CaptureError, match=r"^inner: bad$"), outer, inner:
        raise ValueError("inner: bad")
    with pytest.raises(PermissionError, match=r"x\.file"), reading("x.file", "a thing"):
        raise PermissionError(13, "Permission denied")


def test_a_short_repr_of_anything():
    shared = [1]
    for _ in range(100):
        shared = [shared, shared]
    for value in (shared, 10**5000, {"a": "x" * 10**6}, (1,) * 10**6):
        assert len(brief(value)) < 500


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_devices_and_folders_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "folder").mkdir()
    readers = [file_bytes, check_file, load_arrays, load_npy, load_numbers, load_pickle, load_torch, read_json,
               BlendshapeHead.from_file, read_scan_landmarks]  # fmt: skip
    for name in ("pipe", "zero", "circle", "folder", "none", "n\0ne"):
        for read in readers:
            with pytest.raises(FileNotFoundError, match=r"is not a file"):
                read(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        RunFolder(tmp_path).config()
    with pytest.raises(CaptureError, match="is not a file but a pipe"):
        image_header(tmp_path / "pipe", "frame 1", "file_path", "rgba")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell script")
def test_no_reader_of_images_runs_a_program(tmp_path, monkeypatch):
    script = tmp_path / "gs"
    script.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n%%EOF\n")
    with pytest.raises(CaptureError, match=r"picture\.png is not a readable image"):
        image_header(picture, "frame 1", "file_path", "rgba")
    with pytest.raises(OSError), open_image(picture) as image:
        image.load()
    assert not (tmp_path / "ran").exists()


def archive(compression, data):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as out:
        out.writestr("a.npy", data)
    return file.getvalue()


def test_archives_that_numpy_does_not_write(tmp_path):
    whole = io.BytesIO()
    np.save(whole, np.eye(3))
    path = tmp_path / "a.npz"
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        path.write_bytes(archive(method, whole.getvalue()))
        with pytest.raises(ValueError, match=rf"a\.npz.*compression method {method}; expected stored or deflated"):
            load_arrays(path)
    data = bytearray(archive(zipfile.ZIP_DEFLATED, whole.getvalue()))
    data[40:50] = bytes(10)  # zlib's
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.npz: not a file of arrays"):
        load_arrays(path)
    with pytest.raises(ValueError, match=r"a\.npz: not an npz file"):
        load_numbers(path)
    data = archive(zipfile.ZIP_STORED, whole.getvalue())
    path.write_bytes(
        data.replace(b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00")
    )  # encrypted
    with pytest.raises(ValueError, match=r"a\.npz: not a file of arrays"):
        load_arrays(path)


def test_digits_of_other_scripts_are_no_numbers(tmp_path):
    path = tmp_path / "scan.json"
    for key in ("²", "٣", "36" * 40):
        path.write_text(f'{{"landmarks": {{"{key}": [0, 0, 0]}}}}', encoding="utf-8")
        with pytest.raises(ValueError, match=r"scan\.json: .* is neither one of 0 to 67"):
            read_scan_landmarks(path)


def test_a_log_with_lines_of_other_types(tmp_path):
    run = RunFolder(tmp_path)
    lines = ["[1]", '"x"', '{"step": "2"}', '{"step": 1}', "[" * 10**5, '{"step": ' + "9" * 5000 + "}", '{"step": 9}']
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + "\n")
    assert [entry["step"] for entry in run.read_log()] == [1, 9]
    run.rewind_log(5)
    assert [entry["step"] for entry in run.read_log()] == [1]


def test_small_pictures_of_each_format_are_read(tmp_path):
    pixels = np.arange(75, dtype=np.uint8).reshape(5, 5, 3)
    for kind in ("png", "bmp", "tiff", "ppm", "tga"):
        Image.fromarray(pixels).save(tmp_path / f"a.{kind}")
        with open_image(tmp_path / f"a.{kind}") as image:
            np.testing.assert_array_equal(np.asarray(image.convert("RGB")), pixels)
