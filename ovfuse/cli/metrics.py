"""`ovfuse metrics`: what Prometheus is told of the mounts of this machine."""

import re
import sys
from typing import Annotated

import typer

from ovfuse.cli import terminal
from ovfuse.errors import UsageError
from ovfuse.quote import quoted

__all__ = ["metrics"]

_OF_OWNER, _OF_GROUP = 0o600, 0o660

Listen = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Answer HTTP at unix:PATH, 127.0.0.1:PORT or [::1]:PORT.",
    ),
]
Mode = Annotated[
    str | None, typer.Option(metavar="MODE", help="Of the socket file: 0660.")
]
Group = Annotated[
    str | None,
    typer.Option(metavar="GROUP", help="Who may connect to the socket file."),
]


def metrics(listen: Listen = None, mode: Mode = None, group: Group = None) -> None:
    """Print metrics of the mounts for Prometheus, or serve them with --listen."""
    try:
        from ovfuse.serve.metrics.collector import exposition, make_registry
        from ovfuse.serve.metrics.server import Listen as Place
        from ovfuse.serve.metrics.server import serve
    except ModuleNotFoundError as error:
        raise UsageError(
            f"metrics need the package {quoted(error.name or '')}",
            hint="pip install 'ovfuse[metrics]'",
        ) from None
    if listen is None and (mode, group) != (None, None):
        raise UsageError("--mode and --group are of the socket file of --listen")
    if listen is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(exposition())
        return
    place = Place.parse(listen)
    if place.path is None and (mode, group) != (None, None):
        raise UsageError("--mode and --group are of a socket file: --listen unix:PATH")
    default = _OF_OWNER if group is None else _OF_GROUP
    was_told = serve(
        place,
        make_registry(),
        mode=default if mode is None else _parse_mode(mode),
        group=group,
        ready=_tell,
    )
    if not was_told:
        raise KeyboardInterrupt


def _parse_mode(text: str) -> int:
    if not re.fullmatch("0?[0-7]{3}", text):
        raise UsageError(f"--mode takes an octal number, not {quoted(text)}")
    return int(text, 8)


def _tell(place: str) -> None:
    from ovfuse.serve.notify import notify

    terminal.note(f"metrics at {place}")
    notify(READY=1, STATUS=f"metrics at {place}")
