"""Proof that a device does as it is told, with a model that is nobody's.

A few random numbers are compiled where a leak would be seen: OpenVINO is told to keep a
cache in an empty private directory, and told by the call to keep none. Then what it
exports must import and compute the same. Once per process and device: the process has
one version of OpenVINO.
"""

import functools
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ovfuse.errors import LoadError

if TYPE_CHECKING:
    import openvino

__all__ = ["EXPORTING", "IMPORTING", "Trial", "trial_of"]

_WIDTH: Final = 64


def _unchanged(data: bytes) -> bytes:
    return data


EXPORTING: Final[Mapping[str, Any]] = {
    "CACHE_DIR": "",
    # Whatever the core says: else the export lacks weights, or is encrypted twice.
    "CACHE_MODE": "OPTIMIZE_SPEED",
    "CACHE_ENCRYPTION_CALLBACKS": [_unchanged, _unchanged],
}
"""With it OpenVINO writes nothing, and exports all that an import needs."""

IMPORTING: Final[Mapping[str, Any]] = {**EXPORTING, "LOADED_FROM_CACHE": True}
"""Also says so to the app that asks where a compiled model came from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What a device has shown.

    Attributes:
        is_quiet: it writes nothing when it is told so.
        hardware: what its blobs depend on: full name, capabilities, and for a CPU the
            instruction set; None if it exports none that can be used.
    """

    is_quiet: bool
    hardware: str | None


@functools.cache
def trial_of(device: str) -> Trial:
    """Try a device, once per process.

    Raises:
        LoadError: there is no place for a temporary directory.
    """
    import openvino  # noqa: PLC0415 - takes long; whoever gets here needs it

    core = openvino.Core()
    try:
        with tempfile.TemporaryDirectory(prefix="ovfuse-") as directory:
            core.set_property({"CACHE_DIR": directory})
            hardware = _try(core, device)
            return Trial(is_quiet=not os.listdir(directory), hardware=hardware)
    except OSError as error:
        raise LoadError(
            f"no temporary directory to try the device in: {error.strerror}",
            hint="set TMPDIR",
        ) from None


def _try(core: "openvino.Core", device: str) -> str | None:
    model, values = _throwaway_model()
    try:
        compiled = core.compile_model(model, device, dict(EXPORTING))
        expected = compiled(values)[0].tobytes()
        blob = compiled.export_model().getvalue()
        imported = core.import_model(blob, device, dict(IMPORTING))
        if imported(values)[0].tobytes() == expected:
            return "; ".join(_facts(core, device, compiled))
    except RuntimeError:  # it cannot, or is none: then compiling says so
        pass
    return None


def _facts(
    core: "openvino.Core", device: str, compiled: "openvino.CompiledModel"
) -> list[str]:
    capabilities = core.get_property(device, "OPTIMIZATION_CAPABILITIES")
    facts = [
        str(core.get_property(device, "FULL_DEVICE_NAME")),
        " ".join(sorted(capabilities)),
    ]
    try:  # of a CPU: the instruction set
        facts.append(str(compiled.get_property("RUNTIME_REQUIREMENTS")))
    except RuntimeError:
        facts.append("")
    return facts


def _throwaway_model() -> "tuple[openvino.Model, Any]":
    """Return a model of random weights, f32 and i8, and values for it."""
    import numpy as np  # noqa: PLC0415 - comes with openvino
    from openvino import Model, Type, opset13  # noqa: PLC0415 - see above

    random = np.random.default_rng(int.from_bytes(os.urandom(8), "big"))
    shape = (_WIDTH, _WIDTH)
    values = random.standard_normal((1, _WIDTH), dtype=np.float32)
    parameter = opset13.parameter([1, _WIDTH], Type.f32)
    floats = opset13.constant(random.standard_normal(shape, dtype=np.float32))
    node = opset13.matmul(parameter, floats, transpose_a=False, transpose_b=False)
    small = opset13.constant(random.integers(-127, 128, shape).astype(np.int8))
    scale = opset13.constant(np.float32(1 / 127))
    scaled = opset13.multiply(opset13.convert(small, Type.f32), scale)
    node = opset13.matmul(node, scaled, transpose_a=False, transpose_b=False)
    return Model([opset13.result(opset13.relu(node))], [parameter], "trial"), values
