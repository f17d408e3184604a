"""Where a tensor lies in memory, whoever made it: torch, NumPy, a DLPack producer, or a raw pointer.

No tensor library is imported. A tensor is taken by what it can say of itself, in this order:
`data_ptr()` and its strides (torch), `__array_interface__` (NumPy), `__dlpack__` (everything else).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol, runtime_checkable

from penstock._native import DlpackTensor, LayoutRefused

# NumPy's array protocol: byte order, kind and size. Neither pointers nor text, dates or bit fields.
_NUMBER = re.compile(r"[<|][biufcV]([0-9]{1,4})")


@runtime_checkable
class TorchLike(Protocol):
    """A tensor that tells its address and its strides in elements."""

    def data_ptr(self) -> int: ...
    def stride(self) -> Sequence[int]: ...
    def element_size(self) -> int: ...
    @property
    def shape(self) -> Sequence[int]: ...
    @property
    def is_cpu(self) -> bool: ...


@runtime_checkable
class ArrayLike(Protocol):
    """An array of NumPy's protocol, version 3."""

    @property
    def __array_interface__(self) -> Mapping[str, object]: ...


@runtime_checkable
class DlpackLike(Protocol):
    """A producer of DLPack capsules."""

    def __dlpack__(self) -> object: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RawTensor:
    """A tensor named by its address. The caller answers for the memory, and for its life."""

    address: int
    shape: tuple[int, ...]
    strides_bytes: tuple[int, ...]
    element_bytes: int


Tensor = TorchLike | ArrayLike | DlpackLike | RawTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorMemory:
    """Where a tensor's elements are. Every stride is positive or of a dimension of one."""

    address: int
    shape: tuple[int, ...]
    strides_bytes: tuple[int, ...]
    element_bytes: int
    owner: object  # keeps the memory

    @property
    def span_bytes(self) -> int:
        """From the first element to the end of the last one."""
        reach = zip(self.shape, self.strides_bytes, strict=True)
        return sum((count - 1) * stride for count, stride in reach) + self.element_bytes


def memory_of(tensor: Tensor) -> TensorMemory:
    """Ask a tensor where it is.

    Raises LayoutRefused for memory of another device, an empty tensor, a negative stride, and for
    something that is no tensor.
    """
    match tensor:
        case RawTensor():
            memory = TensorMemory(
                address=tensor.address,
                shape=tensor.shape,
                strides_bytes=tensor.strides_bytes,
                element_bytes=tensor.element_bytes,
                owner=tensor,
            )
        case TorchLike():
            memory = _of_torch(tensor)
        case ArrayLike():
            memory = _of_array(tensor)
        case DlpackLike():
            memory = _of_dlpack(tensor)
        case _:
            raise LayoutRefused(f"{type(tensor).__name__} is no tensor: it tells no address")
    _check(memory)
    return memory


def _of_torch(tensor: TorchLike) -> TensorMemory:
    if not tensor.is_cpu:
        raise LayoutRefused("the tensor is not in this machine's memory: this copy is the CPU's")
    element_bytes = tensor.element_size()
    return TensorMemory(
        address=tensor.data_ptr(),
        shape=tuple(tensor.shape),
        strides_bytes=tuple(stride * element_bytes for stride in tensor.stride()),
        element_bytes=element_bytes,
        owner=tensor,
    )


def _of_array(array: ArrayLike) -> TensorMemory:
    interface = array.__array_interface__
    data, shape, kind = interface["data"], interface["shape"], interface["typestr"]
    if not isinstance(data, tuple) or not isinstance(shape, tuple) or not isinstance(kind, str):
        raise LayoutRefused("an array interface without an address, a shape and a type")
    if data[1]:
        raise LayoutRefused("the array is read-only: KV could not be copied back into it")
    element_bytes = _number_bytes(kind, interface.get("descr"))
    strides = interface.get("strides")
    return TensorMemory(
        address=data[0],
        shape=shape,
        strides_bytes=strides if isinstance(strides, tuple) else _packed(shape, element_bytes),
        element_bytes=element_bytes,
        owner=array,
    )


def _number_bytes(kind: str, fields: object) -> int:
    """Bytes of an element. Void without fields counts as a number: bfloat16 and its like say that of themselves."""
    number = _NUMBER.fullmatch(kind)
    has_fields = isinstance(fields, Sequence) and any(field[0] for field in fields)
    if number is None or has_fields:
        raise LayoutRefused(
            f"elements of NumPy type {kind[:16]!r}: give numbers in this machine's byte order, or view"
            " the array as uint8"
        )
    return int(number[1])


def _of_dlpack(producer: DlpackLike) -> TensorMemory:
    tensor = DlpackTensor(producer.__dlpack__())
    if not tensor.is_cpu:
        raise LayoutRefused("the tensor is not in this machine's memory: this copy is the CPU's")
    element_bytes, shape, strides = tensor.element_bytes, tuple(tensor.shape), tensor.strides
    return TensorMemory(
        address=tensor.address,
        shape=shape,
        strides_bytes=(
            _packed(shape, element_bytes)
            if strides is None
            else tuple(stride * element_bytes for stride in strides)
        ),
        element_bytes=element_bytes,
        owner=(producer, tensor),
    )


def _packed(shape: Sequence[int], element_bytes: int) -> tuple[int, ...]:
    """Strides of a tensor whose elements follow each other, last dimension fastest."""
    return tuple(prod(shape[axis + 1 :]) * element_bytes for axis in range(len(shape)))


def _check(memory: TensorMemory) -> None:
    if len(memory.strides_bytes) != len(memory.shape):
        raise LayoutRefused(f"{len(memory.shape)} dimensions, {len(memory.strides_bytes)} strides")
    if memory.element_bytes < 1 or any(count < 1 for count in memory.shape):
        raise LayoutRefused(f"a tensor of shape {memory.shape} has no elements")
    for count, stride in zip(memory.shape, memory.strides_bytes, strict=True):
        if count > 1 and stride <= 0:
            raise LayoutRefused(f"a stride of {stride} bytes: only forward strides are copied")
