"""Blobs: the bytes, files, damage."""

from __future__ import annotations

import pathlib
import pickle
import struct

import numpy as np
import pytest
from conftest import all_schemes, as_float32, four_kinds, in_type
from hypothesis import given
from hypothesis import strategies as st

import int4q

blob_format = pytest.importorskip("blob_format", reason="xxhash is not installed: no independent packer")

DAMAGE = (int4q.CorruptError, int4q.BlobVersionError, int4q.BufferTooSmallError)


def make(name: str = "asymmetric", n: int = 37, k: int = 75, group_size: int = 32,
         scale_type: int4q.Type = int4q.Type.F16) -> int4q.QuantizedTensor:
    weights = np.random.default_rng(n * 1000 + k).standard_normal((n, k)).astype(np.float32)
    return int4q.quantize(weights, all_schemes(group_size, scale_type)[name])


def raises_damage(data: bytes) -> bool:
    try:
        int4q.Blob.from_bytes(data)
    except DAMAGE as error:
        assert error.message and error.function
        return True
    return False


@pytest.mark.parametrize("scale_type", list(int4q.Type), ids=lambda t: t.name)
@pytest.mark.parametrize("group_size", [16, 32, 64, 128, 256, int4q.PER_ROW])
@pytest.mark.parametrize("name", list(all_schemes()))
def test_bytes_are_the_documented_ones(name: str, group_size: int, scale_type: int4q.Type) -> None:
    for n, k in ((1, 1), (16, 32), (17, 31), (37, 75), (33, 300)):
        tensor = make(name, n, k, group_size, scale_type)
        assert bytes(tensor.pack()) == blob_format.pack(tensor)


@pytest.mark.parametrize("scale_type", list(int4q.Type), ids=lambda t: t.name)
@pytest.mark.parametrize("name", list(all_schemes()))
def test_one_pass_gives_the_same_bytes(
    name: str, scale_type: int4q.Type, generator: np.random.Generator
) -> None:
    """Blob.quantize is quantize and pack, whatever the source's type, rows, stride and threads."""
    for group_size in (16, 32, 64, 128, 256, int4q.PER_ROW):
        scheme = all_schemes(group_size, scale_type)[name]
        for n, k in ((1, 1), (16, 32), (17, 31), (37, 75), (33, 300)):
            room = generator.standard_normal((n, k + 5)).astype(np.float32)
            for element_type in int4q.Type:
                source = in_type(room, element_type)[:, 2 : 2 + k]
                blob = int4q.Blob.quantize(source, scheme, element_type=element_type)
                tensor = int4q.quantize(source, scheme, element_type=element_type)
                assert bytes(blob) == bytes(tensor.pack())


@pytest.mark.parametrize("name", list(four_kinds()))
@given(n=st.integers(1, 70), k=st.integers(1, 300), threads=st.integers(1, 4), seed=st.integers(0, 2**32))
def test_one_pass_of_any_size(name: str, n: int, k: int, threads: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    weights = (generator.standard_normal((n, k)) * 2.0 ** generator.integers(-30, 10, (n, 1))).astype(np.float32)
    weights[generator.random((n, k)) < 0.1] = 0
    scheme = four_kinds(32)[name]
    assert bytes(int4q.Blob.quantize(weights, scheme, threads=threads)) == bytes(int4q.quantize(weights, scheme).pack())


def test_one_pass_on_threads_and_long_rows(generator: np.random.Generator) -> None:
    for shape, group_size in (((777, 400), 32), ((3, 65536 + 100), int4q.PER_ROW)):
        weights = generator.standard_normal(shape).astype(np.float32)
        for scheme in all_schemes(group_size).values():
            expected = bytes(int4q.quantize(weights, scheme).pack())
            assert bytes(int4q.Blob.quantize(weights, scheme, threads=4)) == expected


@pytest.mark.parametrize("name", list(all_schemes()))
def test_one_pass_refuses_what_quantize_refuses(name: str, generator: np.random.Generator) -> None:
    scheme = all_schemes()[name]
    weights = generator.standard_normal((40, 70)).astype(np.float32)
    weights[23, 41] = np.nan
    with pytest.raises(int4q.NotFiniteError, match="row 23.*column 41") as caught:
        int4q.Blob.quantize(weights, scheme)
    assert caught.value.function == "int4q_quantize_pack_rows"
    large = np.full((2, 32), 3e6, np.float32) * np.where(np.arange(32) % 2, 1, -1).astype(np.float32)
    with pytest.raises(int4q.NotFiniteError, match="scale"):
        int4q.Blob.quantize(large, scheme)


def test_one_pass_refuses_wrong_arguments() -> None:
    ones = np.ones((2, 32), np.float32)
    with pytest.raises(ValueError, match="Scheme.codebook"):
        int4q.Blob.quantize(ones, int4q.Scheme(int4q.Kind.CODEBOOK))
    with pytest.raises(int4q.Int4QError, match="codebook"):
        int4q.Blob.quantize(ones, int4q.Scheme.codebook([0.0] * 16))
    with pytest.raises(int4q.InvalidArgumentError, match="group_size"):
        int4q.Blob.quantize(ones, int4q.Scheme.symmetric(33))
    with pytest.raises(ValueError, match="weights has 1 dimensions"):
        int4q.Blob.quantize(ones[0])
    with pytest.raises(TypeError, match="weights has dtype int64"):
        int4q.Blob.quantize(ones.astype(np.int64))
    with pytest.raises(int4q.InvalidArgumentError, match="k is 0"):
        int4q.Blob.quantize(np.ones((2, 0), np.float32))


def test_long_rows_repeat_their_scale() -> None:
    """A row scheme's packed groups end at 65536 elements."""
    for name in ("symmetric-default-full", "asymmetric", "offset"):
        tensor = make(name, 3, 65536 + 100, int4q.PER_ROW)
        blob = tensor.pack()
        assert bytes(blob) == blob_format.pack(tensor)
        assert blob.unpack().scales.tobytes() == tensor.scales.tobytes()


@pytest.mark.parametrize("name", list(all_schemes()))
def test_unpack_gives_everything_back(name: str) -> None:
    for group_size in (16, 32, int4q.PER_ROW):
        tensor = make(name, group_size=group_size)
        back = tensor.pack().unpack(threads=2)
        assert back.scheme == tensor.scheme or tensor.codebook is not None
        for part in ("codes", "scales", "zero_points", "offsets", "codebook"):
            ours, theirs = getattr(tensor, part), getattr(back, part)
            assert (ours is None) == (theirs is None)
            assert ours is None or ours.tobytes() == theirs.tobytes(), part
        assert bytes(back.pack()) == bytes(tensor.pack())


def test_info() -> None:
    tensor = make("codebook")
    blob = tensor.pack()
    raw = bytes(blob)
    assert (blob.info.n, blob.info.k, blob.shape) == (37, 75, (37, 75))
    assert blob.info.total_bytes == blob.nbytes == len(raw)
    assert blob.info.block_count == 3
    assert blob.info.format_version == 1
    assert blob.info.header_checksum == struct.unpack("<Q", raw[248:256])[0]
    np.testing.assert_array_equal(np.float32(blob.scheme.codebook_values), tensor.codebook)
    assert blob.info.bits_per_weight == pytest.approx(len(raw) * 8 / (37 * 75))


@pytest.mark.parametrize("name", list(four_kinds()))
def test_file(name: str, tmp_path: pathlib.Path) -> None:
    tensor = make(name)
    blob = tensor.pack()
    path = tmp_path / "a.int4q"
    blob.save(path)
    assert path.read_bytes() == bytes(blob)
    mapped = int4q.Blob.map(path, validate=True)
    mapped.validate()
    mapped.validate(full=False)
    x = np.random.default_rng(1).standard_normal((3, 75)).astype(np.float32)
    assert mapped.matmul(x).tobytes() == blob.matmul(x).tobytes()
    assert mapped.unpack().codes.tobytes() == tensor.codes.tobytes()


def test_inside_a_larger_file(tmp_path: pathlib.Path) -> None:
    first, second = make("asymmetric").pack(), make("offset", 20, 40).pack()
    path = tmp_path / "two"
    path.write_bytes(bytes(first) + bytes(second) + b"something else")
    assert int4q.Blob.map(path, validate=True).shape == (37, 75)
    inner = int4q.Blob.map(path, offset=first.nbytes, validate=True)
    assert bytes(inner) == bytes(second)
    with pytest.raises(int4q.MisalignedError):
        int4q.Blob.map(path, offset=8)


def test_from_bytes_copies_only_if_it_must() -> None:
    blob = make().pack()
    assert np.shares_memory(int4q.Blob.from_bytes(blob.data).data, blob.data)
    moved = np.concatenate([np.zeros(1, np.uint8), blob.data])[1:]
    copies = [int4q.Blob.from_bytes(source) for source in (moved, bytes(blob), bytearray(blob.data), memoryview(moved))]
    assert all(bytes(copy) == bytes(blob) for copy in copies)
    assert bytes(pickle.loads(pickle.dumps(blob))) == bytes(blob)
    assert not blob.data.flags.writeable


@pytest.mark.parametrize("name", list(four_kinds()))
def test_every_byte_of_the_header_is_guarded(name: str) -> None:
    good = bytes(make(name).pack())
    assert not raises_damage(good)
    for position in range(blob_format.HEADER_BYTES):
        for flip in (1, 0x80, 0xFF):
            bad = bytearray(good)
            bad[position] ^= flip
            assert raises_damage(bytes(bad)), f"byte {position} ^ {flip:#x} went unseen"


@pytest.mark.parametrize("name", list(four_kinds()))
def test_every_byte_of_checksums_and_payload_is_guarded(name: str) -> None:
    """Each byte, every bit of a sample."""
    good = bytes(make(name, 20, 40).pack())
    generator = np.random.default_rng(3)
    for position in range(blob_format.HEADER_BYTES, len(good)):
        bad = bytearray(good)
        bad[position] ^= 1 << int(generator.integers(8))
        assert raises_damage(bytes(bad)), f"byte {position} went unseen"
        int4q.Blob.from_bytes(bytes(bad), validate=False)  # the header is still good


def test_truncated_files(tmp_path: pathlib.Path) -> None:
    good = bytes(make().pack())
    path = tmp_path / "short"
    for size in (*range(1, 300, 7), 255, 256, len(good) // 2, len(good) - 64, len(good) - 1):
        path.write_bytes(good[:size])
        with pytest.raises(DAMAGE):
            int4q.Blob.map(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError):
        int4q.Blob.map(path)
    with pytest.raises(ValueError, match="empty"):
        int4q.Blob.from_bytes(b"")
    with pytest.raises(FileNotFoundError):
        int4q.Blob.map(tmp_path / "absent")


def test_another_format_version() -> None:
    """Told apart from damage, with a checksum that is right."""
    blob = make().pack()
    bad = bytearray(bytes(blob))
    bad[8:12] = struct.pack("<I", 2)
    offset = len(bad) - blob.info.block_count * blob.info.block_bytes
    fixed = blob_format.with_good_checksums(bytes(bad), blob.info.block_bytes, offset)
    with pytest.raises(int4q.BlobVersionError) as caught:
        int4q.Blob.from_bytes(fixed)
    assert "2" in caught.value.value


HEADER_FIELDS = {
    "total bytes": (16, "<Q"), "n": (24, "<q"), "k": (32, "<q"), "kind": (40, "<i"), "group size": (44, "<i"),
    "scale type": (48, "<i"), "scale rule": (52, "<i"), "code range": (56, "<i"), "rounding": (60, "<i"),
    "checksums offset": (64, "<Q"), "blocks offset": (72, "<Q"), "block bytes": (80, "<Q"),
    "scales offset": (88, "<Q"), "zero offset": (96, "<Q"), "group count": (104, "<q"),
    "group size packed": (112, "<q"), "k padded": (120, "<q"), "reserved": (192, "<q"),
}


@pytest.mark.parametrize("field", list(HEADER_FIELDS))
def test_lies_with_a_good_checksum(field: str) -> None:
    """A header made to mislead: its checksum fits, its numbers do not."""
    blob = make().pack()
    offset = len(bytes(blob)) - blob.info.block_count * blob.info.block_bytes
    position, form = HEADER_FIELDS[field]
    old = struct.unpack_from(form, bytes(blob), position)[0]
    large = 2**31 - 1 if form == "<i" else 2**62
    values = {large, large - 64, old + 64, old * 2 + 1, 99}
    if form in ("<i", "<q"):
        values |= {-large, -2}
    for value in sorted(values - {old}):
        bad = bytearray(bytes(blob))
        struct.pack_into(form, bad, position, value)
        assert raises_damage(blob_format.with_good_checksums(bytes(bad), blob.info.block_bytes, offset)), value


def test_contents_that_make_no_sense() -> None:
    """Checksums that fit around zero points of 16, scales of infinity, padding that is not zero."""
    blob = make("asymmetric", 5, 40).pack()
    raw = bytes(blob)
    offset = len(raw) - blob.info.block_bytes
    scales, zeros = struct.unpack_from("<2Q", raw, 88)

    def damaged(position: int, value: bytes) -> bool:
        bad = bytearray(raw)
        bad[offset + position : offset + position + len(value)] = value
        return raises_damage(blob_format.with_good_checksums(bytes(bad), blob.info.block_bytes, offset))

    assert not damaged(scales, raw[offset + scales : offset + scales + 2]), "the unchanged blob is good"
    assert damaged(scales, np.float16(np.inf).tobytes())
    assert damaged(scales, np.float16(np.nan).tobytes())
    assert damaged(zeros, bytes([16]))
    assert damaged(4 * 5, bytes([1])), "codes of a row that is not there"
    assert damaged(40 // 8 * 64, bytes([1])), "codes beyond k"
    assert damaged(scales + 2 * 5, np.float16(1).tobytes()), "the scale of a row that is not there"
    assert damaged(zeros + 5, bytes([1])), "the zero point of a row that is not there"
    assert damaged(blob.info.block_bytes - 1, bytes([1])), "padding at the end"


def test_gather(generator: np.random.Generator) -> None:
    for name in four_kinds():
        tensor = make(name, 50, 77)
        blob = tensor.pack()
        indices = generator.integers(0, 50, (3, 4))
        np.testing.assert_array_equal(blob.gather(indices), tensor.dequantize()[indices])
        np.testing.assert_array_equal(blob.gather(indices, np.float16), tensor.dequantize(np.float16)[indices])
        np.testing.assert_array_equal(
            as_float32(blob.gather(indices, "bf16")), as_float32(tensor.dequantize("bf16"))[indices]
        )
        assert blob.gather(7).shape == (77,)
        assert blob.gather([]).shape == (0, 77)
        for bad in (50, -1, 2**40):
            with pytest.raises(int4q.InvalidArgumentError):
                blob.gather([0, bad])
    with pytest.raises(TypeError, match="integers"):
        blob.gather([0.5])


def test_pack_refuses_nonsense() -> None:
    for part, value in (("scales", np.nan), ("scales", np.inf), ("zero_points", 16)):
        tensor = make()
        getattr(tensor, part)[3, 1] = value
        with pytest.raises(int4q.Int4QError):
            tensor.pack()
