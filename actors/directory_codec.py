"""Updates of directories, to and from their form on the wire (`directory.proto`)."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from penstock.actors.api.directory import UPDATE_BYTES_MAX
from penstock.actors.core.summary import NAME_BYTES, NAMES_MAX, Changes, Part, Update
from penstock.protos import directory_pb2 as wire


class MalformedUpdate(ValueError):
    """What a peer sent is no update."""


def encode(update: Update) -> bytes:
    message = wire.DirectoryUpdate(log=update.log)
    if isinstance(update, Part):
        message.part.sequence = update.sequence
        message.part.part = update.part
        message.part.parts = update.parts
        message.part.filter = update.filter
    else:
        message.changes.first = update.first
        message.changes.gone = update.gone
        message.changes.added = update.added
    return message.SerializeToString()


def decode(update: bytes) -> Update:
    """Raises MalformedUpdate."""
    if len(update) > UPDATE_BYTES_MAX:
        raise MalformedUpdate(f"an update of {len(update)} bytes, above {UPDATE_BYTES_MAX}")
    try:
        message = wire.DirectoryUpdate.FromString(update)
    except DecodeError as error:
        raise MalformedUpdate("not a DirectoryUpdate") from error
    match message.WhichOneof("body"):
        case "part":
            part = message.part
            return Part(message.log, part.sequence, part.part, part.parts, part.filter)
        case "changes":
            changes = message.changes
            if len(changes.gone) % NAME_BYTES or len(changes.added) % NAME_BYTES:
                raise MalformedUpdate(f"names that are not of {NAME_BYTES} bytes")
            if len(changes.gone) + len(changes.added) > NAMES_MAX * NAME_BYTES:
                raise MalformedUpdate(f"changes of more than {NAMES_MAX} chunks in one update")
            return Changes(message.log, changes.first, changes.gone, changes.added)
        case _:
            raise MalformedUpdate("an update of nothing")
