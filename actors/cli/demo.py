"""`penstock demo`: real text through real processes, cold and then warm, with every bit checked.

A node and two small engines start; documents are read once and asked about again and again, by the
engine that read them and by the one that did not. Then the node is killed and started again, and
what it had comes from disk. The tables show what that saves, and the check shows that nothing
changed.
"""

import argparse
import importlib.util
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

import anyio

import penstock
from penstock.actors.cli.demo_cluster import CHUNK_TOKENS, DemoOptions, cluster
from penstock.actors.cli.demo_documents import (
    QUESTIONS,
    Document,
    DocumentsRefused,
    load_documents,
    project_files,
)
from penstock.actors.cli.demo_network import Network
from penstock.actors.cli.demo_plan import Asked, Phase, judge, plan
from penstock.actors.engine.reference_config import MODEL_SIZES
from penstock.actors.engine.reference_messages import Ready
from penstock.runtime.errors import PenstockError

_NEEDED = ("torch", "numpy", "rich")
_DOCUMENTS = 3
_INTERRUPTED = 130  # what a shell reports for a command that Ctrl-C ended


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command `demo`."""
    parser = subparsers.add_parser(
        "demo",
        help="start a node and two small engines and show what reused KV saves",
        description="Start a node and two small engines, ask questions about real documents in "
        "several rounds, cold then warm, kill the node and start it again, and check every byte and "
        "every answer.",
    )
    parser.add_argument(
        "files",
        nargs="*",
        type=Path,
        metavar="FILE",
        help="documents; default: Penstock's own texts",
    )
    parser.add_argument("--model-size", choices=MODEL_SIZES, default="30m", help="default: 30m")
    parser.add_argument(
        "--rounds", type=_between(2, 1000), default=3, help="one cold, the rest warm (3)"
    )
    parser.add_argument(
        "--documents", type=_between(1, 1000), help="how many (3, or as many as FILEs)"
    )
    parser.add_argument(
        "--questions",
        type=_between(1, len(QUESTIONS)),
        default=3,
        help="questions per document, at most 8 (3)",
    )
    parser.add_argument(
        "--document-tokens",
        type=_between(2 * CHUNK_TOKENS, 1 << 17),
        default=3900,
        help="where a document is cut, in tokens, which are bytes (3900)",
    )
    parser.add_argument(
        "--answer-tokens", type=_between(1, 1000), default=16, help="per answer (16)"
    )
    parser.add_argument(
        "--threads",
        type=_between(1, 1024),
        default=os.cpu_count() or 1,
        help="per engine (all cores)",
    )
    parser.add_argument(
        "--seed", type=_between(0, 2**31), default=0, help="of the model's random weights (0)"
    )
    parser.add_argument(
        "--answer-seconds-max",
        type=_between(1, 1000),
        default=300,
        help="patience for one answer (300)",
    )
    _add_places(parser)
    parser.set_defaults(run=run)


def _add_places(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--store-in",
        type=Path,
        metavar="DIR",
        help="where the node's store lies, for as long as the demo runs (the temporary directory)",
    )
    parser.add_argument(
        "--pd",
        action="store_true",
        help="instead: one engine computes prompts at one node, another one answers them at another",
    )
    parser.add_argument(
        "--pd-network",
        type=Network,
        choices=Network,
        default=Network.AUTO,
        metavar="{auto,namespaces,ports}",
        help="of --pd: two network namespaces, which take root, or two ports (what can be had)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw them")
    parser.add_argument("--record-keys", type=Path, metavar="DIR", help="for penstock doctor keys")


def run(args: argparse.Namespace) -> int:
    """Run the demo; 0 when all that was read back is equal to what was written."""
    missing = _missing((*_NEEDED, "matplotlib") if args.plot else _NEEDED)
    if missing:
        return _fail(f"{' and '.join(missing)} not installed: pip install 'penstock[demo]'")
    for path in (args.json, args.plot):
        if path is not None and not path.parent.is_dir():
            return _fail(f"{path} cannot be written: there is no directory {path.parent}")
    if args.store_in is not None and not args.store_in.is_dir():
        return _fail(f"no store can lie in {args.store_in}: there is no such directory")
    if args.pd and (args.plot or args.record_keys):
        return _fail("--plot and --record-keys are of the demo without --pd")
    if args.record_keys is not None:
        try:
            args.record_keys.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            return _fail(f"{args.record_keys} cannot be made: {error.strerror}")
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        documents = _documents(args)
        options = _options(args, documents=len(documents))
        if args.pd:
            return _show_two_nodes(args, options, documents)
        with (
            tempfile.TemporaryDirectory(prefix="penstock-demo-") as directory,
            tempfile.TemporaryDirectory(prefix="penstock-demo-", dir=args.store_in) as store,
        ):
            asked, ready = anyio.run(_perform, options, documents, Path(directory), Path(store))
        return _report(args, documents, asked, ready)
    except PenstockError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return _INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """As Ctrl-C does, also where that is ignored: a shell that is not interactive ignores it for what it runs in the
    background. Raises KeyboardInterrupt."""
    as_ctrl_c = signal.getsignal(signal.SIGINT)
    if callable(as_ctrl_c):
        as_ctrl_c(number, frame)
    else:
        raise KeyboardInterrupt


async def _perform(
    options: DemoOptions, documents: Sequence[Document], directory: Path, store: Path
) -> tuple[list[Asked], Ready]:
    """Start everything, put every question, the node killed in between; stop everything."""
    from penstock.actors.cli.demo_view import live_view

    asks = plan(documents=len(documents), questions=options.questions, rounds=options.rounds)
    asked: list[Asked] = []
    with live_view(requests=len(asks)) as view:
        view.waiting_for("starting a node and two engines")
        async with cluster(options, directory, store) as running:
            for ask in asks:
                if ask.phase is Phase.DISK and asked[-1].ask.round != ask.round:
                    view.waiting_for("waiting until all of it lies on disk")
                    await running.wait_stored(documents)
                    view.waiting_for("killing the node and starting it again")
                    await running.crash_node()
                document = documents[ask.document]
                view.asking(ask, document)
                asked.append(
                    await running.perform(ask, document, answer_tokens=options.answer_tokens)
                )
                view.answered(asked[-1], document)
            view.waiting_for("stopping")
            return asked, running.ready


def _report(
    args: argparse.Namespace, documents: Sequence[Document], asked: Sequence[Asked], ready: Ready
) -> int:
    """Judge, print, and write what was asked for."""
    from rich.console import Console

    from penstock.actors.cli import demo_report

    verdict = judge(asked, chunk_tokens=ready.chunk_tokens, kv_token_bytes=ready.kv_token_bytes)
    summary = demo_report.summarise(asked)
    console = Console()
    console.print(demo_report.table(documents, asked))
    console.print(demo_report.sources(summary))
    for line in demo_report.closing_lines(summary, verdict):
        console.print(line, highlight=False)
    try:
        if args.json:
            numbers = demo_report.as_json(summary, verdict, asked)
            args.json.write_text(json.dumps(numbers, indent=2) + "\n")
        if args.plot:
            from penstock.actors.cli import demo_plot

            demo_plot.draw(asked, args.plot)
            console.print(f"Plotted to {args.plot}", highlight=False)
    except OSError as error:
        return _fail(f"{error.filename} cannot be written: {error.strerror}")
    return 1 if verdict.problems else 0


def _show_two_nodes(
    args: argparse.Namespace, options: DemoOptions, documents: Sequence[Document]
) -> int:
    """--pd: perform, print, and write what was asked for."""
    from rich.console import Console

    from penstock.actors.cli import demo_pd, demo_pd_report

    console = Console()
    with (
        tempfile.TemporaryDirectory(prefix="penstock-demo-") as directory,
        console.status("starting two nodes and two engines") as status,
    ):

        def say(what: str) -> None:
            status.update(what)
            console.print(what, highlight=False, markup=False)

        shown = anyio.run(
            demo_pd.perform, options, documents, Path(directory), args.pd_network, say
        )
    console.print(demo_pd_report.table(documents, shown))
    for line in demo_pd_report.sentences(shown, chunk_tokens=CHUNK_TOKENS):
        console.print(line, highlight=False, markup=False)
    numbers = demo_pd_report.as_json(shown, documents, chunk_tokens=CHUNK_TOKENS)
    try:
        if args.json:
            args.json.write_text(json.dumps(numbers, indent=2) + "\n")
    except OSError as error:
        return _fail(f"{error.filename} cannot be written: {error.strerror}")
    return 1 if numbers["problems"] else 0


def _documents(args: argparse.Namespace) -> list[Document]:
    count = args.documents or len(args.files) or _DOCUMENTS
    if args.files and count > len(args.files):
        raise DocumentsRefused(
            f"--documents {count} asks for more than the {len(args.files)} named"
        )
    package = Path(penstock.__file__).parent
    files = args.files or project_files(package, count=count, tokens=args.document_tokens)
    return load_documents(files[:count], tokens=args.document_tokens, tokens_min=2 * CHUNK_TOKENS)


def _options(args: argparse.Namespace, *, documents: int) -> DemoOptions:
    return DemoOptions(
        shape=MODEL_SIZES[args.model_size],
        seed=args.seed,
        documents=documents,
        document_tokens=args.document_tokens,
        questions=args.questions,
        rounds=args.rounds,
        answer_tokens=args.answer_tokens,
        threads=args.threads,
        answer_within_s=args.answer_seconds_max,
        record_keys=args.record_keys,
    )


def _missing(modules: Sequence[str]) -> list[str]:
    return [name for name in modules if importlib.util.find_spec(name) is None]


def _fail(problem: str) -> int:
    print(f"penstock demo: {problem}", file=sys.stderr)
    return 1


def _between(least: int, most: int) -> Callable[[str], int]:
    """An argparse type: a whole number of that range."""

    def number(text: str) -> int:
        if not text.isascii() or not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"a whole number from {least} to {most}, not {text!r}")
        return int(text)

    return number
