"""What an app has told OpenVINO: about its cache, and everything else as a text.

OpenVINO's own cache is always off for a sealed model; see cache.py. What is read here
is where the app wants one, and which settings make one compilation differ from another.
"""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ovfuse.errors import LoadError
from ovfuse.quote import quoted

if TYPE_CHECKING:
    import openvino

__all__ = ["cache_place", "settings_text", "wants_cache", "without_cache"]

_CACHE_DIR: Final = "CACHE_DIR"
_CACHE_PATH: Final = "CACHE_PATH"
_DEVICE_PROPERTIES: Final = "DEVICE_PROPERTIES"
_OF_THE_CACHE: Final = frozenset(
    {_CACHE_DIR, _CACHE_PATH, "CACHE_MODE", "CACHE_ENCRYPTION_CALLBACKS"}
)


def cache_place(
    core: "openvino.Core", device: str, config: Mapping[str, Any]
) -> Path | None:
    """Return the directory in which the app wants compiled models to be kept.

    What the call says comes before what the core says; empty means none.
    """
    for properties in (config, _of_device(config, device)):
        for name in (_CACHE_DIR, _CACHE_PATH):
            if name in properties:
                return _directory(_plain(properties[name]))
    for arguments in ((device, _CACHE_DIR), (_CACHE_DIR,)):
        # A device that is made of others has no such property.
        with contextlib.suppress(RuntimeError):
            return _directory(core.get_property(*arguments))
    return None


def wants_cache(config: Mapping[str, Any]) -> bool:
    """Tell whether a config names a place for a cache, also one for a part of it."""
    for name, value in config.items():
        inner = _plain(value)
        if isinstance(inner, Mapping) and wants_cache(inner):
            return True
        if str(name) in (_CACHE_DIR, _CACHE_PATH) and inner:
            return True
    return False


def without_cache(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with which OpenVINO keeps nothing, whatever the core says.

    Measured: an empty CACHE_DIR in the call wins over the core's and the device's,
    also for AUTO, MULTI, HETERO and BATCH.
    """
    return {**_stripped(config), _CACHE_DIR: ""}


def settings_text(core: "openvino.Core", device: str, config: Mapping[str, Any]) -> str:
    """Return all settings of a compilation in one form.

    What can be said as a text and as a value is the same: `YES` and True, `f32` and
    `openvino.Type.f32`.

    Raises:
        LoadError: the device cannot be asked, or a setting has no text.
    """
    try:
        supported = core.get_property(device, "SUPPORTED_PROPERTIES")
    except RuntimeError:  # it is made of others, or there is none
        raise LoadError(
            f"what {quoted(device)} compiles cannot be exported",
            hint="name one device, such as CPU",
        ) from None
    settings: dict[str, Any] = {}
    for name, access in supported.items():
        if access == "RW":
            settings[name] = core.get_property(device, name)
    settings.update(_stripped(config))
    return json.dumps(_canonical(settings), sort_keys=True)


def _of_device(config: Mapping[str, Any], device: str) -> Mapping[str, Any]:
    of_devices = _plain(config.get(_DEVICE_PROPERTIES))
    found = of_devices.get(device) if isinstance(of_devices, Mapping) else None
    found = _plain(found)
    return found if isinstance(found, Mapping) else {}


def _directory(value: object) -> Path | None:
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        return None
    path = Path(value)
    # CACHE_PATH can also name one file, for one model.
    return path.parent if path.suffix == ".blob" else path


def _stripped(config: Mapping[str, Any]) -> dict[str, Any]:
    kept = {}
    for name, value in config.items():
        inner = _plain(value)
        if str(name) not in _OF_THE_CACHE:
            kept[str(name)] = _stripped(inner) if isinstance(inner, Mapping) else value
    return kept


def _plain(value: Any) -> Any:  # noqa: ANN401 - whatever the app has given
    """Take a value out of OpenVINO's box for any value (`openvino.OVAny`)."""
    return value.value if type(value).__name__ == "OVAny" else value


def _canonical(value: Any) -> Any:  # noqa: ANN401 - likewise
    value = _plain(value)
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(map(_text, value))
    return _text(value)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "YES" if value else "NO"
    if isinstance(value, str | int | float | os.PathLike):
        return str(value)
    if hasattr(value, "get_type_name"):  # openvino.Type
        return str(value.get_type_name())
    name = getattr(value, "name", None)  # of an enumeration
    if isinstance(name, str) and not callable(value):
        return name
    raise LoadError("a setting has a value that is neither text nor number")
