"""`ovfuse compile`: compile a model once, and keep the result sealed on this device."""

from ovfuse.cli import terminal
from ovfuse.cli.parameters import (
    AllowRollback,
    AllowUntrusted,
    CompileConfig,
    Device,
    Identities,
    ModelPath,
    SingleCipherdir,
    VerifyKeys,
)
from ovfuse.errors import UsageError
from ovfuse.quote import quoted

__all__ = ["compile_model"]


def compile_model(
    cipherdir: SingleCipherdir,
    path: ModelPath,
    device: Device = "CPU",
    config: CompileConfig = None,
    identity: Identities = None,
    verify_key: VerifyKeys = None,
    allow_untrusted: AllowUntrusted = False,
    allow_rollback: AllowRollback = False,
) -> None:
    """Compile a model for this device, and keep the result sealed.

    The loader imports it from then on. CIPHERDIR is not changed.
    """
    from ovfuse.load import open_model
    from ovfuse.load.compiling import compile_and_keep

    settings = _parse(config or [])
    with open_model(
        cipherdir,
        identity=identity,
        verify_keys=verify_key,
        allow_untrusted=allow_untrusted,
        allow_rollback=allow_rollback,
    ) as model:
        size = compile_and_keep(model, path, device, settings)
    terminal.say(
        f"compiled {quoted(path)} for {quoted(device)}: {terminal.size_text(size)}"
    )


def _parse(config: list[str]) -> dict[str, str]:
    settings = {}
    for text in config:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise UsageError(f"{quoted(text)} is not KEY=VALUE")
        settings[name] = value
    return settings
