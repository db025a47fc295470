"""The metrics: what `status` says, by the names and units of Prometheus.

Each mount's daemon is asked by its control socket. Labels are strangers' words, and so
made printable; of too many models, the rest is counted. Any thread.
"""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

import ovfuse
from ovfuse.quote import printable
from ovfuse.serve.configured import configured_mounts
from ovfuse.serve.status import STATES, MountStatus, list_status
from ovfuse.view.contract import ModelStatus

__all__ = ["NAMES", "exposition", "make_registry"]

_MODELS_MAX: Final = 1000
"""Of one mount."""
_FRESH_SECONDS: Final = 1.0
_MODEL_STATES: Final = ("locked", "unlocked", "refused")
_MOUNT: Final = ("mountpoint",)
_MODEL: Final = ("mountpoint", "model")

_Kind = type[GaugeMetricFamily] | type[CounterMetricFamily]

_GAUGES: Final = {
    "ovfuse_build_info": ("The version of ovfuse that asks", ("version",)),
    "ovfuse_mount_configured": (
        "1 for each mount that /etc/ovfuse says is to be there",
        ("mountpoint", "unit"),
    ),
    "ovfuse_mount_state": (
        "1 for the state that a mount is in, 0 for the others",
        (*_MOUNT, "state"),
    ),
    "ovfuse_resident_files": ("Files in memory, served by the kernel", _MOUNT),
    "ovfuse_resident_bytes": ("What these take", _MOUNT),
    "ovfuse_models_left_out": ("Models beyond those that are listed", _MOUNT),
    "ovfuse_model_state": (
        "1 for the state that a model is in, 0 for the others",
        (*_MODEL, "state"),
    ),
    "ovfuse_model_version": ("The version that is shown", _MODEL),
    "ovfuse_model_sealed_timestamp_seconds": ("When that was sealed", _MODEL),
    "ovfuse_model_not_after_timestamp_seconds": ("When its terms end", _MODEL),
}
_COUNTERS: Final = {
    "ovfuse_opens_total": ("Files opened", _MOUNT),
    "ovfuse_failed_reads_total": ("Opens and reads that failed", _MOUNT),
    "ovfuse_denials_total": ("Requests denied for want of key or trust", _MOUNT),
    "ovfuse_daemon_restarts_total": ("Daemons that were replaced", _MOUNT),
    "ovfuse_model_unlocks_total": ("Sealings unlocked", _MODEL),
}
NAMES: Final = (*_GAUGES, *_COUNTERS)
"""As docs/observing.md lists them."""


def make_registry() -> CollectorRegistry:
    """Return what Prometheus' library makes an answer of."""
    registry = CollectorRegistry()
    registry.register(_Mounts())
    return registry


def exposition() -> bytes:
    """Return the text of all metrics, as of now."""
    return generate_latest(make_registry())


class _Mounts(Collector):
    """Asks for all mounts; what it got is good for a moment, whoever asks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: list[MountStatus] = []
        self._found_at = -_FRESH_SECONDS

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        families = _Families()
        families.add("ovfuse_build_info", 1, ovfuse.__version__)
        for wanted in configured_mounts():
            families.add("ovfuse_mount_configured", 1, wanted.mountpoint, wanted.unit)
        for mount in self._look():
            _add_mount(families, mount)
        yield from families.filled()

    def _look(self) -> list[MountStatus]:
        with self._lock:
            if time.monotonic() - self._found_at >= _FRESH_SECONDS:
                self._found = list_status()
                self._found_at = time.monotonic()
            return self._found


class _Families:
    """Values by the names of metrics and by labels, each of which is there once."""

    def __init__(self) -> None:
        self._values: dict[str, dict[tuple[str, ...], float]] = {}

    def add(self, name: str, value: float | None, *labels: str) -> None:
        """Note a value, unless it is not known; of the same labels, the last holds."""
        if value is not None:
            shown = tuple(map(printable, labels))
            self._values.setdefault(name, {})[shown] = value

    def filled(self) -> Iterator[Metric]:
        """Yield all that have values."""
        yield from self._of(_GAUGES, GaugeMetricFamily)
        yield from self._of(_COUNTERS, CounterMetricFamily)

    def _of(
        self, known: Mapping[str, tuple[str, Iterable[str]]], kind: _Kind
    ) -> Iterator[Metric]:
        for name, (description, labels) in known.items():
            family = kind(name, description, labels=list(labels))
            for shown, value in self._values.get(name, {}).items():
                family.add_metric(shown, value)
            if family.samples:
                yield family


def _add_mount(families: _Families, mount: MountStatus) -> None:
    place = mount.mountpoint
    for state in STATES:
        families.add("ovfuse_mount_state", mount.state == state, place, state)
    for name, value in (
        ("ovfuse_opens_total", mount.opens),
        ("ovfuse_failed_reads_total", mount.failed_reads),
        ("ovfuse_denials_total", mount.denials),
        ("ovfuse_daemon_restarts_total", mount.restarts),
        ("ovfuse_resident_files", mount.resident_files),
        ("ovfuse_resident_bytes", mount.resident_bytes),
        ("ovfuse_models_left_out", max(len(mount.models) - _MODELS_MAX, 0)),
    ):
        families.add(name, value, place)
    for model in mount.models[:_MODELS_MAX]:
        _add_model(families, place, model)


def _add_model(families: _Families, place: str, model: ModelStatus) -> None:
    # By the place, since two may have the same name; the only one of a mount has none.
    labels = (place, model.path or model.name)
    for state in _MODEL_STATES:
        families.add("ovfuse_model_state", model.state == state, *labels, state)
    families.add("ovfuse_model_unlocks_total", model.unlocks, *labels)
    if model.version:
        families.add("ovfuse_model_version", model.version, *labels)
        sealed = "ovfuse_model_sealed_timestamp_seconds"
        families.add(sealed, model.sealed_at, *labels)
        ends = "ovfuse_model_not_after_timestamp_seconds"
        families.add(ends, model.not_after, *labels)
