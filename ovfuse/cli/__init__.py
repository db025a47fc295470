"""The command line: one module per command: parse, call, print.

Here: the list of commands, and how every error becomes one line and an exit code.
The only part of ovfuse that prints or exits.
"""

import sys
from collections.abc import Callable

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
    mount,
    prune,
    recipients,
    reload,
    status,
    terminal,
    trust,
    unmount,
    verify,
)
from ovfuse.errors import OvfuseError, UsageError, describe
from ovfuse.secret import harden_process
from ovfuse.serve.survival.restarted import is_restarted

__all__ = ["app", "main"]

_INTERRUPTED = 130

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
    ("verify", verify.verify),
    ("inspect", inspect.inspect),
    ("decrypt", decrypt.decrypt),
    ("prune", prune.prune),
    ("compile", compile.compile_model),
    ("doctor", doctor.doctor),
):
    app.command(_name)(_command)
app.add_typer(trust.app, name="trust")
app.add_typer(recipients.app, name="recipients")


def main() -> None:
    """Run the command line and exit with its code."""
    terminal.prepare_streams()
    terminal.log_to_stderr(True)
    harden_process()  # whatever it does, it may come to hold keys or plaintext
    code = _run(mount.go_on if is_restarted() else _obey)
    sys.exit(code if terminal.finish() else code or 1)


def _obey() -> object:
    return app(sys.argv[1:], standalone_mode=False, prog_name="ovfuse")


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
        return _INTERRUPTED
    except BrokenPipeError:
        return 1
    except Exception as error:  # noqa: BLE001 - one line, and nothing of what it held
        terminal.error(f"internal error: {describe(error)}; please report it")
        return 1
    if code == _INTERRUPTED:  # typer's answer to Ctrl-C
        terminal.error("interrupted")
    return code if isinstance(code, int) else 0


def _failed(error: OvfuseError) -> int:
    terminal.error(error.message)
    if error.hint:
        terminal.hint(error.hint)
    return error.exit_code
