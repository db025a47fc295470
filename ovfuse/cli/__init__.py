"""The command line: one module per command: parse, call, print.

Here: the list of commands, and how every error becomes one line and an exit code.
The only part of ovfuse that prints or exits.
"""

import sys
from collections.abc import Callable, Sequence

import typer
from typer.exceptions import TyperException

import ovfuse
from ovfuse.cli import (
    compile,  # noqa: A004 - the command's name
    decrypt,
    doctor,
    encrypt,
    import_openssl,
    inspect,
    keygen,
    lock,
    metrics,
    mount,
    premount,
    prune,
    recipients,
    reload,
    status,
    terminal,
    tpm,
    trust,
    unmount,
    verify,
)
from ovfuse.errors import OvfuseError, UsageError, describe
from ovfuse.secret import harden_process
from ovfuse.serve.notify import notify
from ovfuse.serve.survival.restarted import is_restarted

__all__ = ["INTERRUPTED", "app", "main", "obey", "run"]

INTERRUPTED = 130

app = typer.Typer(
    help="Encrypted model directories on disk, plaintext only in memory.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(value: bool) -> None:
    if value:
        terminal.say(f"ovfuse {ovfuse.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _version: bool = typer.Option(
        False,
        "--version",
        callback=_print_version,
        is_eager=True,
        help="Print the version.",
    ),
) -> None:
    pass


for _name, _command in (
    ("keygen", keygen.keygen),
    ("encrypt", encrypt.encrypt),
    ("import-openssl", import_openssl.import_openssl),
    ("mount", mount.mount),
    ("unmount", unmount.unmount),
    ("reload", reload.reload),
    ("lock", lock.lock),
    ("unlock", lock.unlock),
    ("status", status.status),
    ("metrics", metrics.metrics),
    ("verify", verify.verify),
    ("inspect", inspect.inspect),
    ("decrypt", decrypt.decrypt),
    ("prune", prune.prune),
    ("compile", compile.compile_model),
    ("doctor", doctor.doctor),
    ("premount", premount.premount),
):
    app.command(_name)(_command)
app.add_typer(tpm.app, name="tpm")
app.add_typer(trust.app, name="trust")
app.add_typer(recipients.app, name="recipients")


def main() -> None:
    """Run the command line and exit with its code."""
    sys.exit(run(mount.go_on if is_restarted() else lambda: obey(sys.argv[1:])))


def obey(words: Sequence[str]) -> object:
    """Do what the words after `ovfuse` say.

    Raises:
        OvfuseError: it failed.
        TyperException: they are wrong.
    """
    return app(words, standalone_mode=False, prog_name="ovfuse")


def run(do: Callable[[], object]) -> int:
    """Do it, in a process that is there for nothing else; return its exit code."""
    terminal.prepare_streams()
    terminal.log_to_stderr(True)
    harden_process()  # whatever it does, it may come to hold keys or plaintext
    code = _run(do)
    return code if terminal.finish() else code or 1


def _run(do: Callable[[], object]) -> int:
    try:
        code = do()
    except OvfuseError as error:
        return _failed(error)
    except TyperException as error:
        command = getattr(getattr(error, "ctx", None), "command_path", "ovfuse")
        return _failed(UsageError(error.format_message(), hint=f"{command} --help"))
    except (KeyboardInterrupt, typer.Abort):
        terminal.error("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        return 1
    except Exception as error:  # noqa: BLE001 - one line, and nothing of what it held
        terminal.error(f"internal error: {describe(error)}; please report it")
        return 1
    if code == INTERRUPTED:  # typer's answer to Ctrl-C
        terminal.error("interrupted")
    return code if isinstance(code, int) else 0


def _failed(error: OvfuseError) -> int:
    terminal.error(error.message)
    notify(STATUS=error.message)  # of the unit, if this is its main process
    if error.hint:
        terminal.hint(error.hint)
    return error.exit_code
