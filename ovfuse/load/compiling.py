"""Compiling without an app: what `ovfuse compile` does, with a core of its own."""

import os
from collections.abc import Mapping

from ovfuse.errors import LoadError
from ovfuse.load.model import OpenModel
from ovfuse.quote import quoted

__all__ = ["compile_and_keep"]


def compile_and_keep(
    model: OpenModel, path: str, device: str, config: Mapping[str, str]
) -> int:
    """Compile a model with a fresh core; see `OpenModel.save_compiled`.

    Returns:
        The size of the compiled blob in bytes.

    Raises:
        LoadError: OpenVINO is missing, has no such device, or refuses. Its own words
            are left out: they may quote the model.
        see `OpenModel.save_compiled`.
    """
    # Else OpenVINO tells its makers that it is imported, by a child of this process.
    os.environ.setdefault("CI", "true")
    try:
        import openvino  # noqa: PLC0415 - takes long, and may be missing
    except ImportError:
        raise LoadError(
            "OpenVINO is not installed", hint="pip install 'ovfuse[openvino]'"
        ) from None
    core = openvino.Core()
    devices = core.available_devices
    if device not in devices:
        raise LoadError(
            f"there is no device {quoted(device)}",
            hint=f"there are {', '.join(map(quoted, devices))}",
        )
    try:
        return model.save_compiled(core, path, device, config)
    except RuntimeError:
        raise LoadError(
            f"OpenVINO cannot compile {quoted(path)} for {quoted(device)}",
            hint="by the path on a mount, core.compile_model says why; see --config",
        ) from None
