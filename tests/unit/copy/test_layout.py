"""What a declaration accepts, from whom, and what it refuses."""

from __future__ import annotations

import ctypes
import gc
import struct
import weakref
from array import array
from typing import ClassVar

import numpy as np
import pytest
import torch
from support.copy_reference import Objects

from penstock._native import Copier, Direction
from penstock.actors.engine.layout import (
    KvGeometry,
    LayoutRefused,
    PagedLayout,
    RawTensor,
    Tensor,
    indexer_layouts,
    opaque_layout,
    paged_layout,
)

GEOMETRY = KvGeometry(block_tokens=4, kv_heads=3, head_size=8)
PRESET = "NL_X_TWO_NB_BS_NH_HS"
SHAPE = (2, 5, 4, 3, 8)


class OnlyDlpack:
    """A tensor that says nothing of itself but its capsule."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor

    def __dlpack__(self) -> object:
        return self._tensor.__dlpack__()


class Made:
    """A DLPack tensor made by hand, of a device and an element type that torch's CPU has not."""

    def __init__(self, *, device: int, bits: int, lanes: int = 1) -> None:
        self.memory = (ctypes.c_uint8 * (2 * 5 * 4 * 3 * 8 * 4))()
        self._shape = (ctypes.c_int64 * 5)(*SHAPE)
        address, shape = ctypes.addressof(self.memory), ctypes.addressof(self._shape)
        # data, device type, its id, dimensions, type code, bits, lanes, shape, strides, offset,
        # context, deleter: as the C structure lies in memory.
        fields = (address, device, 0, 5, 1, bits, lanes, shape, 0, 0, 0, 0)
        self._managed = ctypes.create_string_buffer(struct.pack("@PiiiBBHPPQPP", *fields))

    def __dlpack__(self) -> object:
        new = ctypes.pythonapi.PyCapsule_New
        new.restype = ctypes.py_object
        new.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        return new(ctypes.addressof(self._managed), b"dltensor", None)


@pytest.mark.parametrize("device", [1, 3], ids=["host", "pinned host"])
def test_memory_of_the_host_is_taken_pinned_or_not(device: int) -> None:
    made = Made(device=device, bits=32)
    layout = paged_layout(PRESET, [made], GEOMETRY)
    assert layout.bases[0] == ctypes.addressof(made.memory)
    assert layout.head_bytes == 8 * 4


@pytest.mark.parametrize(("bits", "lanes"), [(4, 1), (6, 1), (4, 3), (1, 1)])
def test_elements_that_are_no_whole_bytes_are_refused(bits: int, lanes: int) -> None:
    """Seen to fail with the size rounded up: 4-bit elements then reach twice as far as they lie."""
    with pytest.raises(LayoutRefused, match="bits: only whole bytes are copied"):
        paged_layout(PRESET, [Made(device=1, bits=bits, lanes=lanes)], GEOMETRY)


def test_memory_of_another_device_is_refused() -> None:
    with pytest.raises(LayoutRefused, match="this machine's memory"):
        paged_layout(PRESET, [Made(device=2, bits=32)], GEOMETRY)


STRUCTURED = np.dtype([("k", "<f4"), ("v", "<f4")])


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(SHAPE, dtype=object),
        np.zeros(SHAPE, dtype=STRUCTURED),
        np.zeros(SHAPE, dtype=">f4"),
        np.zeros(SHAPE, dtype="M8[s]"),
        np.zeros(SHAPE, dtype="U1"),
    ],
    ids=["object", "structured", "big-endian", "datetime", "text"],
)
def test_an_array_of_no_numbers_is_refused(array: Tensor) -> None:
    """Copied bytes of an object array would be pointers. Seen to fail with a bare ValueError."""
    with pytest.raises(LayoutRefused, match="elements"):
        paged_layout(PRESET, [array], GEOMETRY)


def test_plain_bytes_are_taken_as_bfloat16_shows_itself_in_numpy() -> None:
    assert paged_layout(PRESET, [np.zeros(SHAPE, dtype="V2")], GEOMETRY).head_bytes == 8 * 2


TYPES = ["", "<f", "<fx", "f4", "<f-4", "<f\N{ARABIC-INDIC DIGIT THREE}", "<f" + "9" * 5000]


@pytest.mark.parametrize("typestr", TYPES, ids=range(len(TYPES)))
def test_an_array_interface_with_a_type_that_is_none_is_refused(typestr: str) -> None:
    class Claims:
        __array_interface__: ClassVar[dict[str, object]] = {
            "data": (4096, False),
            "shape": SHAPE,
            "typestr": typestr,
            "version": 3,
        }

    with pytest.raises(LayoutRefused, match="elements"):
        paged_layout(PRESET, [Claims()], GEOMETRY)


def _fields(layout: PagedLayout) -> tuple[object, ...]:
    names = ("layers", "components", "blocks", "block_slots", "heads", "head_bytes")
    strides = ("s_block", "s_slot", "s_head")
    return tuple(getattr(layout, name) for name in (*names, *strides))


def test_torch_numpy_dlpack_and_pointers_declare_the_same() -> None:
    tensor = torch.zeros(SHAPE)
    ways: list[Tensor] = [
        tensor,
        tensor.numpy(),
        OnlyDlpack(tensor),
        RawTensor(
            address=tensor.data_ptr(),
            shape=SHAPE,
            strides_bytes=tuple(4 * stride for stride in tensor.stride()),
            element_bytes=4,
        ),
    ]
    layouts = [paged_layout(PRESET, [way], GEOMETRY) for way in ways]
    assert all(layout.bases == layouts[0].bases for layout in layouts)
    assert all(_fields(layout) == _fields(layouts[0]) for layout in layouts)
    assert _fields(layouts[0]) == (1, 2, 5, 4, 3, 32, 384, 96, 32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_dtypes_that_numpy_lacks_are_declared(dtype: torch.dtype) -> None:
    layout = paged_layout(PRESET, [torch.zeros(SHAPE).to(dtype)], GEOMETRY)
    assert layout.head_bytes == 8 * dtype.itemsize


def test_a_layout_keeps_its_tensors() -> None:
    tensor = torch.zeros(SHAPE)
    watched = weakref.ref(tensor)
    layout = paged_layout(PRESET, [tensor], GEOMETRY)
    del tensor
    gc.collect()
    assert watched() is not None
    del layout
    gc.collect()
    assert watched() is None


def test_padding_between_blocks_is_a_stride() -> None:
    pages = torch.zeros(6, 4 * 3 * 8 + 10)
    tensor = pages.as_strided((6, 4, 3, 8), (4 * 3 * 8 + 10, 24, 8, 1))
    layout = paged_layout("NL_X_NB_BS_NH_HS", [tensor, _same_strides(tensor)], GEOMETRY)
    assert layout.s_block == 4 * (96 + 10)
    assert layout.blocks == 6


def _same_strides(tensor: torch.Tensor) -> torch.Tensor:
    storage = torch.zeros(tensor.untyped_storage().nbytes() // 4)
    return storage.as_strided(tensor.shape, tensor.stride())


REFUSED = [
    ("a name that is none", "NL_X_NB", [torch.zeros(SHAPE)], "no preset"),
    ("no tensors", PRESET, [], "without tensors"),
    ("K and V missing", PRESET, [torch.zeros(5, 2, 4, 3, 8)], "is not"),
    ("another block size", PRESET, [torch.zeros(2, 5, 8, 3, 8)], "is not"),
    ("another head size", PRESET, [torch.zeros(2, 5, 4, 3, 16)], "is not"),
    ("a dimension less", PRESET, [torch.zeros(5, 4, 3, 8)], "is not"),
    ("layers of two shapes", PRESET, [torch.zeros(SHAPE), torch.zeros(2, 6, 4, 3, 8)], "one group"),
    ("two dtypes", PRESET, [torch.zeros(SHAPE), torch.zeros(SHAPE).half()], "one group"),
    ("one tensor twice", PRESET, [torch.zeros(SHAPE)] * 2, "same base"),
    ("K without V", "TWO_X_NL_X_NB_BS_NH_HS", [torch.zeros(5, 4, 3, 8)], "2 for a layer"),
    ("heads for MLA", "NL_X_NB_BS_HS", [torch.zeros(5, 4, 8)], "one head"),
    ("slots that do not fill blocks", "TWO_X_NL_X_NBBS_NH_HS", [torch.zeros(21, 3, 8)] * 2, "is not"),
    ("scattered elements", PRESET, [torch.zeros(2, 5, 4, 3, 16)[..., ::2]], "not contiguous"),
    ("slots that overlap", PRESET, [torch.zeros(1000).as_strided(SHAPE, (480, 96, 8, 8, 1))], "overlap"),
    ("an empty tensor", PRESET, [torch.zeros(2, 0, 4, 3, 8)], "no elements"),
    ("memory of a device", PRESET, [torch.zeros(SHAPE, device="meta")], "this machine's memory"),
    ("a backward array", PRESET, [np.zeros(SHAPE)[:, ::-1]], "forward"),
    ("something else", PRESET, ["tensor"], "no tensor"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("preset", "tensors", "match"),
    [case[1:] for case in REFUSED],
    ids=[case[0] for case in REFUSED],
)
def test_a_declaration_that_cannot_be_is_refused(
    preset: str, tensors: list[Tensor], match: str
) -> None:
    with pytest.raises(LayoutRefused, match=match):
        paged_layout(preset, tensors, GEOMETRY)


def test_a_read_only_array_is_refused() -> None:
    frozen = np.zeros(SHAPE)
    frozen.flags.writeable = False
    with pytest.raises(LayoutRefused, match="read-only"):
        paged_layout(PRESET, [frozen], GEOMETRY)


def test_a_registered_shape_must_be_contiguous_inside() -> None:
    """The CPU backend's true order can only be read from it if nothing lies between."""
    padded = torch.zeros(5, 3, 4, 20)[..., :16]
    with pytest.raises(LayoutRefused, match="not contiguous"):
        paged_layout("NL_X_NB_NH_TWO_BS_HS", [padded], GEOMETRY)


def test_the_indexer_holds_two_groups() -> None:
    """All values of a block come first, then all its scales; each is an object of its own."""
    slots, blocks, value_bytes = 4, 3, 128
    pages = [torch.arange(blocks * slots * 132).remainder(251).to(torch.uint8) for _ in range(2)]
    tensors = [page.view(blocks, slots, 132) for page in pages]
    values, scales = indexer_layouts(tensors, block_tokens=slots)
    copier = Copier(threads=1)
    for layout, offset, size in ((values, 0, value_bytes), (scales, slots * value_bytes, 4)):
        objects = Objects(layout, count=1, object_blocks=2, seed=1)
        copier.copy(
            direction=Direction.TO_OBJECTS,
            layout=layout,
            arena=objects.arena,
            extents=objects.extents,
            block_ids=array("q", [2, 0]),
        )
        expected = [
            page.view(blocks, -1)[block, offset : offset + slots * size].numpy()
            for page in pages
            for block in (2, 0)
        ]
        assert np.array_equal(objects.view(0), np.concatenate(expected))


def test_an_indexer_of_another_size_is_refused() -> None:
    with pytest.raises(LayoutRefused, match="528 bytes"):
        indexer_layouts([torch.zeros(3, 500, dtype=torch.uint8)], block_tokens=4)


def test_an_opaque_state_is_moved_by_whole_blocks() -> None:
    states = [torch.randn(4, 3, 5) for _ in range(2)]
    layout = opaque_layout(states)
    objects = Objects(layout, count=2, object_blocks=1, seed=1)
    Copier(threads=1).copy(
        direction=Direction.TO_OBJECTS,
        layout=layout,
        arena=objects.arena,
        extents=objects.extents,
        block_ids=array("q", [3, 1]),
    )
    for index, block in enumerate((3, 1)):
        expected = np.concatenate([state[block].numpy().reshape(-1) for state in states])
        assert np.array_equal(objects.view(index).view(np.float32), expected)
    with pytest.raises(LayoutRefused, match="not contiguous"):
        opaque_layout([torch.zeros(4, 3, 10)[..., :5]])
