"""Protocol buffers, read without the protobuf library: nothing is copied but numbers and names.

A message is fields: a varint, number << 3 | kind, then by kind 0 a varint, 1 eight bytes, 5 four bytes, 2 a length, varint, and
so many bytes: text, packed numbers or another message. A varint has seven bits in a byte, the lowest first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from tinyfcn.errors import InputError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
LONGEST = 1 << 12  # bytes of a name
AXES = 32  # that an array may have
STEPS = 1_000_000  # numbers of a file that are read: VGG's have a few hundred


class Field(NamedTuple):
    """A field of a message: a number, or bytes start:end of the file."""

    number: int
    kind: int
    value: int
    start: int
    end: int


class Messages:
    """The messages of an open file."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.steps = 0

    def fields(self, start: int, end: int) -> Iterator[Field]:
        """Walk the fields of the message that lies at start:end, passing over what they hold."""
        while start < end:
            self.file.seek(start)
            tag = self._varint()
            number, kind = tag >> 3, tag & 7
            value = self._varint() if kind in (VARINT, BYTES) else 0
            start = self.file.tell()
            size = {VARINT: 0, FIXED64: 8, BYTES: value, FIXED32: 4}.get(kind)
            if size is None or number == 0:
                raise InputError(f"damaged, or of another kind: a field {number} of kind {kind} before byte {start}")
            if start + size > end:
                raise InputError(f"damaged: field {number} at byte {start} ends after the {end - start} bytes that are left")
            yield Field(number, kind, value, start, start + size)
            start += size

    def inside(self, field: Field) -> Iterator[Field]:
        """The fields of a message that is a field."""
        return self.fields(field.start, field.end)

    def text(self, field: Field) -> str:
        if field.end - field.start > LONGEST:
            raise InputError(f"damaged: a name of {field.end - field.start} bytes")
        return self.bytes(field).decode("utf-8")

    def bytes(self, field: Field) -> bytes:
        self.file.seek(field.start)
        return self.file.read(field.end - field.start)

    def numbers(self, field: Field, most: int) -> list[int]:
        """The varints of a repeated field, which new writers pack into one and old ones give one by one."""
        if field.kind == VARINT:
            return [field.value]
        self.file.seek(field.start)
        found = []
        while self.file.tell() < field.end:
            found.append(self._varint())
            if len(found) > most:
                raise InputError(f"damaged: more than {most} numbers at byte {field.start}")
        return found

    def _varint(self) -> int:
        self.steps += 1
        if self.steps > STEPS:
            raise InputError(f"has more than {STEPS:,} fields and numbers, which no file of weights needs: refused")
        value = 0
        for shift in range(0, 70, 7):
            byte = self.file.read(1)
            if not byte:
                raise InputError("damaged: the file ends inside a number")
            value |= (byte[0] & 127) << shift
            if byte[0] < 128:
                return value
        raise InputError(f"damaged: a number longer than ten bytes before byte {self.file.tell()}")


def signed(value: int) -> int:
    """A varint as the number of 64 bits with a sign that it stands for."""
    return value - (1 << 64) if value >> 63 else value
