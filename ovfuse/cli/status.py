"""`ovfuse status`: the mounts of this machine, for people or as JSON."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from ovfuse.cli.parameters import Json
from ovfuse.cli.terminal import say, say_json
from ovfuse.quote import printable

if TYPE_CHECKING:
    from rich.table import Table

    from ovfuse.serve.status import MountStatus

__all__ = ["status"]

_HEADINGS = ("MOUNTPOINT", "CIPHERDIR", "STATE", "PID", "ENGINE", "FAILED READS")

Watch = Annotated[bool, typer.Option("--watch", help="Again and again, until Ctrl-C.")]
Interval = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        min=0.1,
        help="Between two looks of --watch.",
        show_default=True,
    ),
]


def status(
    as_json: Json = False, watch: Watch = False, interval: Interval = 2.0
) -> None:
    """List the mounts, their sealed models, and how they are doing."""
    from ovfuse.serve.status import list_status

    if watch:
        with suppress(KeyboardInterrupt):
            _watch(interval, as_json=as_json)
        return
    mounts = list_status()
    if as_json:
        say_json([mount.as_json() for mount in mounts])
    elif sys.stdout.isatty():
        from rich.console import Console

        Console().print(_table(mounts))
    else:
        _print_lines(mounts)


def _watch(interval: float, *, as_json: bool) -> None:
    from ovfuse.serve.status import list_status

    if sys.stdout.isatty() and not as_json:
        _redraw(interval)
    while True:
        mounts = list_status()
        if as_json:
            say(json.dumps([mount.as_json() for mount in mounts]))
        else:
            _print_lines(mounts)
            say("")
        sys.stdout.flush()
        time.sleep(interval)


def _redraw(interval: float) -> None:
    from rich.live import Live

    from ovfuse.serve.status import list_status

    with Live(screen=True, auto_refresh=False) as live:
        while True:
            live.update(_table(list_status()), refresh=True)
            time.sleep(interval)


def _print_lines(mounts: "list[MountStatus]") -> None:
    for mount in mounts:
        say("  ".join(_cells(mount)))
        for line in _lines(mount):
            say(f"  {line}")


def _table(mounts: "list[MountStatus]") -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(*_HEADINGS, box=None, pad_edge=False)
    for mount in mounts:
        table.add_row(*(Text(cell, overflow="fold") for cell in _cells(mount)))
        for line in _lines(mount):
            table.add_row(Text(f"  {line}", overflow="fold"))
    return table


def _cells(mount: "MountStatus") -> list[str]:
    values = (
        *(mount.mountpoint, mount.cipherdir, mount.state),
        *(mount.pid, mount.engine, mount.failed_reads),
    )
    return ["-" if value is None else printable(str(value)) for value in values]


def _lines(mount: "MountStatus") -> Iterator[str]:
    if mount.resident_files and mount.resident_bytes:
        size = mount.resident_bytes / 2**20
        yield f"{mount.resident_files} in memory, {size:.1f} MiB"
    for model in mount.models:
        name = model.name or model.path
        version = f" version {model.version}" if model.version else ""
        reason = f": {model.reason}" if model.reason else ""
        yield printable(f"{name}{version}, {model.state}{reason}")
