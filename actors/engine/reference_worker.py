"""A process that is one engine: `python -m penstock.actors.engine.reference_worker --model-size 30m
...`.

It reads requests from standard input and writes answers to standard output, a JSON object a line
(see `reference_messages`), and ends with its input. With --address it attaches to that node and
shares KV through it, by the public client alone; without, it has only its own prefix cache.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import msgspec
import torch

from penstock.actors.engine.reference_config import END, MODEL_SIZES, encode
from penstock.actors.engine.reference_connection import PenstockConnection, connected
from penstock.actors.engine.reference_engine import PromptRefused, ReferenceEngine
from penstock.actors.engine.reference_kv import PAGINGS, PagedKv
from penstock.actors.engine.reference_messages import (
    Abandon,
    Answer,
    Done,
    Expect,
    Generate,
    Generated,
    LookAtPool,
    PdRequest,
    PrefixFrom,
    Push,
    PushAgain,
    Ready,
    Refused,
    Request,
    WaitAttached,
    WaitStored,
    Watch,
)
from penstock.actors.engine.reference_model import ReferenceModel
from penstock.actors.engine.reference_pd import PdSide
from penstock.runtime.errors import PenstockError

_ALONE_CHUNK_TOKENS = 256  # without a node to say it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one worker until its standard input ends."""
    args = _parser().parse_args(arguments)
    torch.set_num_threads(args.threads)  # the bits of a sum depend on it
    model = ReferenceModel(
        MODEL_SIZES[args.model_size], seed=args.seed, positions_max=args.positions_max
    )
    kv = PagedKv(
        model.shape,
        preset=args.layout,
        blocks=-(-args.kv_tokens // args.block_tokens),
        block_tokens=args.block_tokens,
        dtype=torch.bfloat16,
    )
    weights = model.weights_digest()
    with ExitStack() as stack:
        connection, chunk_tokens = None, _ALONE_CHUNK_TOKENS
        if args.address:
            connection = stack.enter_context(
                connected(
                    args.address,
                    kv,
                    shape=model.shape,
                    weights_digest=weights,
                    copy_threads=args.threads,
                    record_to=args.record_keys,
                )
            )
            chunk_tokens = connection.chunk_tokens
        engine = ReferenceEngine(model, kv, chunk_tokens=chunk_tokens, connection=connection)
        _warm_up(engine, chunk_tokens)
        _say(sys.stdout.buffer, Ready(weights, chunk_tokens, kv.token_bytes))
        for request in _requests(sys.stdin.buffer):
            _say(sys.stdout.buffer, _answer(engine, connection, request))
    return 0


def _warm_up(engine: ReferenceEngine, chunk_tokens: int) -> None:
    """Pay for the first use of every kernel now, so that the first request is not charged for it."""
    prompt = [END] * (chunk_tokens - 1)  # less than a chunk: nothing is kept
    engine.generate(prompt, answer_tokens_max=2, prefix_from=PrefixFrom.NOWHERE)


def _requests(lines: BinaryIO) -> Iterator[Request | Refused]:
    decoder: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)
    for line in lines:
        try:
            yield decoder.decode(line)
        except msgspec.DecodeError as error:
            yield Refused(f"not a request: {error}")


def _answer(
    engine: ReferenceEngine, connection: PenstockConnection | None, request: Request | Refused
) -> Answer:
    try:
        match request:
            case Refused():
                return request
            case Generate():
                return Generated(
                    engine.generate(
                        encode(request.text),
                        answer_tokens_max=request.answer_tokens_max,
                        prefix_from=request.prefix_from,
                    )
                )
            case WaitStored():
                _of(connection).wait_stored(encode(request.text), within_s=request.within_s)
            case WaitAttached():
                _of(connection).wait_attached(within_s=request.within_s)
            case _:
                return _answer_of_two(engine, _of(connection).pd, request)
    except PenstockError as error:
        return Refused(str(error))
    return Done()


def _answer_of_two(engine: ReferenceEngine, pd: PdSide, request: PdRequest) -> Answer:
    """What one of two engines does that work on one prompt."""
    match request:
        case Push(text, target, request_id, within_s, stand_still_after):
            prompt = encode(text)
            push = pd.push(prompt, target=target, request_id=request_id, within_s=within_s)
            push.stand_still_after = stand_still_after
            push.computing_s = time.monotonic()
            generation = engine.generate(
                prompt,
                answer_tokens_max=1,
                prefix_from=PrefixFrom.NOWHERE,
                after_chunk=push.computed,
            )
            return push.finish(generation)
        case PushAgain(text, target, request_id, within_s):
            prompt = encode(text)
            push = pd.push(prompt, target=target, request_id=request_id, within_s=within_s)
            return push.finish(None)
        case Expect(text, request_id, within_s):
            pd.expect(encode(text), request_id=request_id, within_s=within_s)
        case Watch(chunks, within_s):
            return pd.watch(chunks, within_s=within_s)
        case Abandon():
            pd.abandon()
        case LookAtPool():
            return pd.pool()
    return Done()


def _of(connection: PenstockConnection | None) -> PenstockConnection:
    if connection is None:
        raise PromptRefused("this worker was started without --address: it has no node")
    return connection


def _say(stream: BinaryIO, answer: Answer) -> None:
    stream.write(msgspec.json.encode(answer) + b"\n")
    stream.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="One reference engine.")
    parser.add_argument("--address", help="of the node; default: none, and no KV is shared")
    parser.add_argument(
        "--record-keys", type=Path, metavar="FILE", help="of the last prompt, for penstock doctor"
    )
    parser.add_argument("--model-size", choices=MODEL_SIZES, default="30m")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    parser.add_argument("--layout", choices=PAGINGS, default=next(iter(PAGINGS)))
    parser.add_argument("--block-tokens", type=int, default=16)
    parser.add_argument("--kv-tokens", type=int, default=32_768, help="size of the KV cache")
    parser.add_argument("--positions-max", type=int, default=8_192, help="prompt and answer")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    return parser


if __name__ == "__main__":
    sys.exit(main())
