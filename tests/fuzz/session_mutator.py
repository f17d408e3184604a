"""Mutations that know what an input is made of: steps, messages, fields, and ids that were heard before.

Most mutated inputs stay messages that parse, so that what is tried lies behind the parser. Which mutation comes next is
drawn from the seed that the fuzzer gives; the plain byte mutations are the fuzzer's own.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import session_requests as requests
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from session_growth import key_chain
from session_input import KINDS, PROFILES, STEPS_MAX, STREAMS, Input, Kind, Named, Step, symbol

from penstock.protos import engine_pb2

Mutate = Callable[[bytes, int], bytes]  # the fuzzer's own mutation: data, bytes at most

ROUNDS_MAX = 4  # mutations of one input at once
INTEGERS = (
    0,
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    16,
    63,
    64,
    65,
    127,
    128,
    129,
    255,
    256,
    1000,
    4096,
    65535,
    65536,
)
HUGE = (2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
LENGTHS = (0, 1, 4, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 256, 257, 1024, 1025)
TEXTS = ("", "a", "full", "float8_e4m3fn", "uint8", "canonical", "r", "é" * 40, "\0", "x" * 257)

_INTEGER_KINDS = {
    FieldDescriptor.TYPE_UINT32: 2**32 - 1,
    FieldDescriptor.TYPE_UINT64: 2**64 - 1,
}


class Mutator:
    """Mutates one input; made anew for each, from the seed that the fuzzer draws."""

    def __init__(self, seed: int, mutate: Mutate) -> None:
        self._draw = random.Random(seed)
        self._mutate = mutate

    def mutated(self, data: bytes, bytes_max: int) -> bytes:
        given = Input.decode(data)
        for _ in range(self._draw.randint(1, ROUNDS_MAX)):
            given = self._mutate_input(given)
        return given.encode()[:bytes_max]

    def crossed(self, data: bytes, other: bytes, bytes_max: int) -> bytes:
        """Some steps of the one, then some of the other; or both interleaved, each in its order."""
        ours, theirs = Input.decode(data), Input.decode(other)
        if self._draw.random() < 0.5:
            head = ours.steps[: self._draw.randint(0, len(ours.steps))]
            tail = theirs.steps[self._draw.randint(0, len(theirs.steps)) :]
            return ours.with_steps([*head, *tail]).encode()[:bytes_max]
        queues = [list(ours.steps), list(theirs.steps)]
        woven = []
        while any(queues):
            woven.append(self._draw.choice([queue for queue in queues if queue]).pop(0))
        return ours.with_steps(woven).encode()[:bytes_max]

    # Inputs and steps.

    def _mutate_input(self, given: Input) -> Input:
        chance = self._draw.random()
        if chance < 0.03:
            return replace(given, order=self._draw.randrange(256))
        if chance < 0.04:
            return replace(given, profile=self._draw.choice(PROFILES))
        steps = list(given.steps)
        if not steps or chance < 0.25:
            self._rearrange(steps)
        else:
            at = self._draw.randrange(len(steps))
            steps[at] = self._mutate_step(steps[at])
        return given.with_steps(steps)

    def _rearrange(self, steps: list[Step]) -> None:
        """Insert, repeat, remove or swap a step."""
        at = self._draw.randint(0, len(steps))
        chance = self._draw.random()
        if not steps or (chance < 0.5 and len(steps) < STEPS_MAX):
            steps.insert(at, self._new_step())
        elif chance < 0.65 and len(steps) < STEPS_MAX:
            steps.insert(at, self._draw.choice(steps))
        elif chance < 0.85:
            del steps[self._draw.randrange(len(steps))]
        else:
            steps.insert(at, steps.pop(self._draw.randrange(len(steps))))

    def _new_step(self) -> Step:
        stream = self._draw.choice((0, 0, 0, 1, 2, 3))
        if self._draw.random() < 0.75:
            return Step(Kind.MESSAGE, stream, self._new_request().SerializeToString())
        kind = self._draw.choice(KINDS[1:])
        if kind is Kind.GROW:
            times = bytes([self._draw.randrange(16)])
            return Step(kind, stream, times + self._new_request().SerializeToString())
        wait = self._draw.choice((0, 1, 50, 200, 500, 1001, 3001, 6001))
        return Step(kind, stream, wait.to_bytes(2, "little") if kind is Kind.WAIT else b"")

    def _mutate_step(self, step: Step) -> Step:
        chance = self._draw.random()
        if chance < 0.05:
            return replace(step, stream=self._draw.randrange(STREAMS))
        if chance < 0.07:
            return replace(step, kind=self._draw.choice(KINDS))
        if step.kind not in {Kind.MESSAGE, Kind.GROW}:
            wait = self._draw.randrange(65536)
            return replace(step, payload=wait.to_bytes(2, "little"))
        head = step.payload[:1] if step.kind is Kind.GROW else b""
        if head and chance < 0.2:
            head = bytes([self._draw.randrange(16)])
        body = step.payload[len(head) :]
        if chance < 0.3:
            return replace(step, payload=head + self._mutate(body, len(body) + 64))
        try:
            request = engine_pb2.SessionRequest.FromString(body)
        except DecodeError:
            return replace(step, payload=head + self._new_request().SerializeToString())
        self._mutate_message(request)
        return replace(step, payload=head + request.SerializeToString())

    # Messages.

    def _new_request(self) -> engine_pb2.SessionRequest:
        draw = self._draw
        chunks = draw.choice((0, 1, 2, 3, 4, 8, 16, 31, 64))
        what = requests.prompt(
            family=draw.randrange(4),
            chunks=chunks,
            salt=draw.choice((b"", b"", b"a", b"b", b"c")),
            tokens=draw.random() < 0.3,
        )
        if draw.random() < 0.2:
            what = requests.delta(base=draw.randint(1, 6), base_chunks=draw.choice((0, 0, 1, 3)))
        nth = draw.choice((0, 0, 0, 1, 2))
        milliseconds = draw.choice((0, 0, 0, 1, 100, 5000))
        return draw.choice(
            (
                lambda: requests.hello(instance=draw.randrange(3), resume=draw.random() < 0.4),
                lambda: requests.lookup(
                    what,
                    readers=draw.choice((1, 1, 2, 128)),
                    name=draw.choice(("", "", "r", "s")),
                    ticket_ms=milliseconds,
                ),
                lambda: requests.acquire(
                    rank=draw.choice((0, 0, 1)), lease_ms=milliseconds, nth=nth
                ),
                lambda: requests.release(*draw.choice(((), (), (0,), (1, 0))), nth=nth),
                lambda: requests.reserve(what, lease_ms=milliseconds),
                lambda: requests.commit(count=2 * chunks, nth=nth),
                lambda: requests.commit(*range(draw.randint(1, 4)), nth=nth),
                lambda: requests.abort(nth=nth),
                lambda: requests.cancel(nth=nth),
                lambda: requests.prefetch(what),
                lambda: requests.touch(what),
                lambda: requests.pd_send(what, within_ms=milliseconds),
                lambda: requests.pd_expect(what, readers=draw.choice((1, 2, 128))),
                lambda: requests.pd_wait(nth=nth),
                lambda: requests.pd_cancel(nth=nth),
                lambda: requests.pd_layers(chunks, nth=nth),
                requests.stat,
                requests.heartbeat,
            )
        )()

    def _mutate_message(self, message: Message) -> None:
        """Change one field of it, or of what it holds, set or not."""
        fields = message.DESCRIPTOR.fields
        holders = [one for one, _ in message.ListFields() if one.message_type is not None]
        if holders and self._draw.random() < 0.7:
            field = self._draw.choice(holders)
            if field.is_repeated:
                self._mutate_message(self._draw.choice(getattr(message, field.name)))
            else:
                self._mutate_message(getattr(message, field.name))
        elif fields:
            self._mutate_field(message, self._draw.choice(list(fields)))

    def _mutate_field(self, message: Any, field: FieldDescriptor) -> None:
        if self._draw.random() < 0.1:
            message.ClearField(field.name)
        elif field.is_repeated:
            self._mutate_repeated(getattr(message, field.name), field)
        elif field.message_type is not None:
            # Of a oneof, this takes the place of what was there; half of the time filled with something.
            held = getattr(message, field.name)
            held.SetInParent()
            if field.containing_oneof is not None and self._draw.random() < 0.5:
                self._copy_if_same(self._new_request(), held)
            else:
                self._mutate_message(held)
        else:
            setattr(message, field.name, self._value(field, getattr(message, field.name)))

    def _copy_if_same(self, source: engine_pb2.SessionRequest, held: Message) -> None:
        body = getattr(source, source.WhichOneof("body") or "heartbeat")
        if body.DESCRIPTOR is held.DESCRIPTOR:
            held.CopyFrom(body)

    def _mutate_repeated(self, held: Any, field: FieldDescriptor) -> None:
        chance = self._draw.random()
        if len(held) and chance < 0.3:
            del held[self._draw.randrange(len(held))]
        elif len(held) and chance < 0.5:
            twice = self._draw.choice(held)
            held.append(twice)
        elif field.message_type is not None:
            self._mutate_message(held.add())
        elif len(held) and chance < 0.7:
            at = self._draw.randrange(len(held))
            held[at] = self._value(field, held[at])
        else:
            held.append(self._value(field, None))

    def _value(self, field: FieldDescriptor, before: Any) -> Any:
        draw = self._draw
        if (bound := _INTEGER_KINDS.get(field.type)) is not None:
            near = (before or 0) + draw.choice((-1, 1))
            return draw.choice((*INTEGERS, *HUGE, near, near, near)) & bound
        if field.type == FieldDescriptor.TYPE_ENUM:
            return draw.choice((0, 1, 2, 3, 4, 5, 99, -1))
        if field.type == FieldDescriptor.TYPE_BOOL:
            return not before
        if field.type == FieldDescriptor.TYPE_STRING:
            return draw.choice(TEXTS)
        return self._bytes_value(before or b"")

    def _bytes_value(self, before: bytes) -> bytes:
        draw = self._draw
        nth = draw.choice((0, 0, 1, 2, 3))
        values: Sequence[Callable[[], bytes]] = (
            lambda: symbol(draw.choice(tuple(Named)), nth),
            lambda: symbol(draw.choice(tuple(Named)), nth),
            lambda: key_chain(draw.randrange(4), draw.choice((1, 2, 3, 4, 8, 16, 63, 64, 65))),
            lambda: draw.randbytes(draw.choice(LENGTHS)),
            lambda: before[: draw.randint(0, len(before))],
            lambda: before + before[-8:],
            lambda: before + draw.randbytes(draw.choice(LENGTHS)),
            lambda: self._mutate(before, len(before) + 32),
        )
        return draw.choice(values)()
