"""The demo as it is seen on a terminal while it runs."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from penstock.actors.cli.demo_documents import Document
from penstock.actors.cli.demo_plan import Ask, Asked, Phase

_STYLES = {Phase.COLD: "red", Phase.WARM: "cyan", Phase.DISK: "yellow", Phase.CHECK: "dim"}


class LiveView:
    """One line for each answer, above a bar that says what is being waited for."""

    def __init__(self, progress: Progress, requests: int) -> None:
        self._progress = progress
        self._bar = progress.add_task("starting", total=requests)

    def waiting_for(self, what: str) -> None:
        """Say what comes next."""
        self._progress.update(self._bar, description=what)

    def asking(self, ask: Ask, document: Document) -> None:
        """Say that `ask` is under way."""
        self.waiting_for(f"worker {ask.worker + 1} reads {document.name}")

    def answered(self, asked: Asked, document: Document) -> None:
        """Show an answer's numbers."""
        ask, generation = asked.ask, asked.generation
        style = _STYLES[ask.phase]
        self._progress.console.print(
            f"[{style}]{ask.phase.value:5}[/]  worker {ask.worker + 1}  "
            f"hit {generation.hit_tokens:5} of {generation.prompt_tokens:5}  "
            f"[bold]{generation.ttft_s * 1e3:7,.0f} ms[/]  "
            f"question {ask.question + 1} on {escape(document.name)}",
            highlight=False,
            overflow="ellipsis",
            no_wrap=True,
        )
        self._progress.advance(self._bar)


@contextmanager
def live_view(*, requests: int) -> Iterator[LiveView]:
    """A view of `requests` requests on standard output; where that is no terminal, lines only."""
    columns = (
        SpinnerColumn(),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(), transient=True) as progress:
        yield LiveView(progress, requests)
