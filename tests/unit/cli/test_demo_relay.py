"""The relay that stands for a wire with late packets."""

from __future__ import annotations

import anyio
import pytest

from penstock.actors.cli.demo_relay import PART_BYTES, Lateness, serve


def test_about_so_many_are_late_and_none_overtakes() -> None:
    lateness = Lateness(delay_s=0.02, percent=5, seed=1)
    due = [lateness.due_s(now) - now for now in (1000.0 * number for number in range(2000))]
    assert set(due) <= {0.0} | {one for one in due if one == pytest.approx(0.02)}
    assert 60 < sum(one > 0 for one in due) < 140
    held = Lateness(delay_s=1.0, percent=50, seed=1)
    moments = [held.due_s(number / 100) for number in range(100)]
    assert moments == sorted(moments)


@pytest.mark.anyio
async def test_bytes_come_over_whole_and_in_order() -> None:
    body = bytes(range(256)) * (5 * PART_BYTES // 256)
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as target,
        anyio.create_task_group() as tasks,
    ):

        async def echo(stream: anyio.abc.SocketStream) -> None:
            async with stream:
                async for part in stream:
                    await stream.send(part)

        tasks.start_soon(target.serve, echo)
        port = target.extra(anyio.abc.SocketAttribute.local_port)
        asked = await tasks.start(serve_on_free_port, f"127.0.0.1:{port}")
        async with await anyio.connect_tcp("127.0.0.1", asked) as stream:
            await stream.send(body)
            came = b""
            with anyio.fail_after(10):
                while len(came) < len(body):
                    came += await stream.receive()
            assert came == body
        tasks.cancel_scope.cancel()


async def serve_on_free_port(target: str, *, task_status: anyio.abc.TaskStatus[int]) -> None:
    await serve("127.0.0.1:0", target, delay_s=0.001, percent=50, started=task_status.started)
