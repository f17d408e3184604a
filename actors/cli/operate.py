"""What the commands that operate a running node share: its address, a channel, one unary call."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from penstock.actors.config import NodeConfig
from penstock.actors.node_settings import ENGINE_SOCKET
from penstock.runtime.errors import ConfigError, UnavailableError, mapped
from penstock.runtime.security import UnixAddress, parse_address

Reply = TypeVar("Reply")

WITHIN_S = 10.0


class NodeUnreachable(UnavailableError):
    """Theirs: no node answers at this address."""


def add_address(parser: argparse.ArgumentParser) -> None:
    default = f"unix://{NodeConfig().state_dir / ENGINE_SOCKET}"
    parser.add_argument("--address", default=default, help=f"of the node (default {default})")
    parser.add_argument("--token-file", help="file with the bearer token, for TCP")
    parser.add_argument("--tls-ca", help="PEM file that verifies the node, for TCP with TLS")


def call(
    args: argparse.Namespace, method: Callable[[grpc.Channel], Callable[..., Reply]], request: object,
    *, within: float = WITHIN_S,
) -> Reply:  # fmt: skip
    """One unary call to the node. Raises NodeUnreachable, and ConfigError of what it is called with."""

    def unreachable(problem: str) -> NodeUnreachable:
        return NodeUnreachable(f"{args.address}: {problem}")

    with mapped({OSError: unreachable}), _channel(args) as channel:
        try:
            return method(channel)(request, timeout=within, metadata=_metadata(args))
        except grpc.RpcError as error:
            raise unreachable(_sentence(error)) from None


def plain(message: Message) -> dict[str, object]:
    """For JSON: all fields, by the names they have in the contract."""
    return MessageToDict(
        message, always_print_fields_with_no_presence=True, preserving_proto_field_name=True
    )


def _sentence(error: object) -> str:
    """What a call's status says, without gRPC's own record of it."""
    if not isinstance(error, grpc.Call):
        return str(error)
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return f"no node answers there; is it running? ({error.details()})"
    return f"{error.details()} ({error.code().name})"


def _channel(args: argparse.Namespace) -> grpc.Channel:
    address = parse_address(args.address)
    if args.tls_ca and not isinstance(address, UnixAddress):
        trusted = grpc.ssl_channel_credentials(_content("--tls-ca", args.tls_ca).encode())
        return grpc.secure_channel(address.target(), trusted)
    return grpc.insecure_channel(address.target())


def _metadata(args: argparse.Namespace) -> list[tuple[str, str]]:
    if not args.token_file:
        return []
    token = _content("--token-file", args.token_file).partition("\n")[0].strip()
    return [("authorization", f"Bearer {token}")]


def _content(option: str, path: str) -> str:
    """Raises ConfigError."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(option, f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(option, f"{path} is no text") from None
