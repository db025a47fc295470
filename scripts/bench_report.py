"""What bench.py found, as tables, a plot and a section of docs/performance.md."""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "performance.md"
DATA = DOCS / "performance-mount.json"
PLOT = DOCS / "performance-mount.png"
START, END = "<!-- scripts/bench -->\n", "<!-- end of scripts/bench -->\n"

Found = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measurement: how it is called, and in what it is counted.

    Attributes:
        divisor: by which a number is divided to have the unit.
        more_is_better: False for times and memory.
    """

    key: str
    title: str
    unit: str
    divisor: float = 1
    digits: int = 2
    more_is_better: bool = True


FIGURES = (
    Figure(key="cold read", title="cold read", unit="GB/s", divisor=1e9),
    Figure(key="second read", title="second read", unit="GB/s", divisor=1e9),
    Figure(key="cold mmap", title="cold mmap", unit="GB/s", divisor=1e9),
    Figure(key="second mmap", title="second mmap", unit="GB/s", divisor=1e9),
    Figure(key="random", title="random 4 KiB", unit="1000/s", divisor=1e3, digits=1),
    Figure(
        key="second random",
        title="… second time",
        unit="1000/s",
        divisor=1e3,
        digits=1,
    ),
    Figure(
        key="beginning",
        title="first 100 bytes, cold",
        unit="s",
        digits=3,
        more_is_better=False,
    ),
    Figure(
        key="cold inference",
        title="first inference, cold",
        unit="s",
        more_is_better=False,
    ),
    Figure(
        key="second inference", title="… second time", unit="s", more_is_better=False
    ),
    Figure(key="sealing", title="sealing or `cp`", unit="s", more_is_better=False),
    Figure(
        key="sealing, synced",
        title="… until it is on the disk",
        unit="s",
        more_is_better=False,
    ),
    Figure(key="listing", title="list and stat", unit="s", more_is_better=False),
    Figure(
        key="pause, killed",
        title="longest pause, daemon killed",
        unit="s",
        digits=3,
        more_is_better=False,
    ),
    Figure(
        key="pause, reload",
        title="… reloaded",
        unit="s",
        digits=3,
        more_is_better=False,
    ),
    Figure(key="start", title="start to answering", unit="s", more_is_better=False),
    Figure(
        key="memory",
        title="memory of its processes",
        unit="MiB",
        digits=0,
        more_is_better=False,
    ),
)
BY_KEY = {figure.key: figure for figure in FIGURES}


@dataclass(frozen=True)
class Bound:
    """What one of ours is held to: a ratio to another candidate.

    Attributes:
        ours: on demand, or the default: with weights in memory, if root mounts.
        goal: what is wished for; `floor` is what must be. Ratios of speed.
    """

    ours: str
    key: str
    other: str
    floor: float
    goal: float | None = None


ON_DEMAND, DEFAULT = "ovfuse on demand", "ovfuse default"
SMALL_PAGES = "plain, small pages"
BOUNDS = (
    Bound(ON_DEMAND, "cold read", "gocryptfs", 1.1),
    Bound(ON_DEMAND, "cold mmap", "gocryptfs", 1.1),
    Bound(ON_DEMAND, "second read", "plain", 0.85),
    Bound(ON_DEMAND, "second mmap", "plain", 0.85),
    Bound(ON_DEMAND, "second read", SMALL_PAGES, 0.0),
    Bound(ON_DEMAND, "second mmap", SMALL_PAGES, 0.0),
    Bound(ON_DEMAND, "second inference", "plain", 1 / 1.15),
    Bound(ON_DEMAND, "sealing", "gocryptfs", 1.0, goal=2.0),
    Bound(ON_DEMAND, "listing", "gocryptfs", 1.0),
    Bound(ON_DEMAND, "cold read", "bindfs", 0.0, goal=1.0),
    Bound(ON_DEMAND, "cold mmap", "bindfs", 0.0, goal=1.0),
    Bound(DEFAULT, "cold read", "gocryptfs", 1.7, goal=3.0),
    Bound(DEFAULT, "cold mmap", "gocryptfs", 2.0, goal=3.0),
    Bound(DEFAULT, "second read", "plain", 0.95),
    Bound(DEFAULT, "second mmap", "plain", 0.95),
    Bound(DEFAULT, "second random", "plain", 0.95),
    Bound(DEFAULT, "cold inference", "plain", 1 / 2.0, goal=1 / 1.5),
    Bound(DEFAULT, "second inference", "plain", 1 / 1.05),
)


def machine() -> dict[str, Any]:
    """Return what a number depends on."""
    cpus = Path("/proc/cpuinfo").read_text(encoding="ascii").splitlines()
    model = next((c.split(": ")[1] for c in cpus if c.startswith("model name")), "?")
    system = platform.freedesktop_os_release().get("PRETTY_NAME", "?")
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cpu": model,
        "cpus": len(os.sched_getaffinity(0)),
        "memory GiB": round(pages / (1 << 30), 1),
        "system": system,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load before": os.getloadavg()[1],
    }


def median(found: Found, name: str, key: str) -> float | None:
    """Return the median of a candidate's numbers, None if it has none."""
    numbers = found["measured"].get(name, {}).get(key)
    return statistics.median(numbers) if numbers else None


def tables(found: Found) -> str:
    """Return all of it as Markdown."""
    return "\n".join((_about(found), _medians(found), _bounds(found)))


def _about(found: Found) -> str:
    of, options = found["machine"], found["options"]
    versions = ", ".join(
        text if text.startswith(name) else f"{name}: {text}"
        for name, text in found["versions"].items()
        if name not in {"ovfuse libfuse", DEFAULT}
    )
    return (
        f"{of['date']}, {of['cpu']}, {of['cpus']} processors, {of['memory GiB']} GiB, "
        f"{of['system']}, Linux {of['kernel']}, Python {of['python']}. {versions}. "
        f"A model of {options['size']} MiB, a directory of {options['files']} files, "
        f"{options['rounds']} rounds; the load of the machine was "
        f"{of['load before']:.1f} before and {of['load after']:.1f} after (the "
        f"benchmark itself is about 1 to 2).\n"
    )


def _medians(found: Found) -> str:
    names = list(found["measured"])
    figures = [f for f in FIGURES if any(f.key in found["measured"][n] for n in names)]
    lines = [f"| medians (smallest to largest) | {' | '.join(names)} |"]
    lines.append("| --- |" + " --- |" * len(names))
    for figure in figures:
        cells = " | ".join(_cell(found, figure, name) for name in names)
        lines.append(f"| {figure.title}, {figure.unit} | {cells} |")
    return "\n".join(lines) + "\n"


def _cell(found: Found, figure: Figure, name: str) -> str:
    numbers = found["measured"][name].get(figure.key)
    if not numbers:
        return ""
    middle, low, high = (
        f"{value / figure.divisor:.{figure.digits}f}"
        for value in (statistics.median(numbers), min(numbers), max(numbers))
    )
    return f"**{middle}** ({low}-{high})"


def _bounds(found: Found) -> str:
    lines = ["| | speed of | is | floor | goal |", "| --- | --- | --- | --- | --- |"]
    for bound in BOUNDS:
        ratio = ratio_of(found, bound)
        if ratio is None:
            continue
        lines.append(
            f"| {bound.ours} | {bound.key}, against {bound.other} | **{ratio:.2f}** "
            f"| {_limit(ratio, bound.floor)} | {_limit(ratio, bound.goal)} |"
        )
    return "\n".join(lines) + "\n" if len(lines) > 2 else ""  # noqa: PLR2004


def _limit(ratio: float, limit: float | None) -> str:
    if not limit:
        return ""
    return f"{limit:.2f}: {'held' if ratio >= limit else 'missed'}"


def ratio_of(found: Found, bound: Bound) -> float | None:
    """Return how many times as fast ours is as the other."""
    ours, other = (median(found, n, bound.key) for n in (bound.ours, bound.other))
    if not ours or not other:
        return None
    return ours / other if BY_KEY[bound.key].more_is_better else other / ours


def write(found: Found) -> None:
    """Write numbers, plot, and the page's part between its two marks."""
    DATA.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    plot(found, PLOT)
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    made = f"\n{tables(found)}\n![the medians as bars]({PLOT.name})\n\n"
    PAGE.write_text(f"{before}{START}{made}{END}{after}", encoding="utf-8")


def plot(found: Found, path: Path) -> None:
    """Draw the medians as bars, and every round as a dot."""
    with tempfile.TemporaryDirectory() as directory:
        os.environ["MPLCONFIGDIR"] = directory  # or it leaves files in ~
        _plot(found, path)


def _plot(found: Found, path: Path) -> None:
    import matplotlib as mpl  # noqa: PLC0415 - only who draws needs it

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - likewise

    names = list(found["measured"])[::-1]
    figure, axes = plt.subplots(4, 4, figsize=(14, 11), sharey=True)
    for axis in axes.flat[len(FIGURES) :]:
        axis.set_visible(False)
    for axis, kind in zip(axes.flat, FIGURES, strict=False):
        for row, name in enumerate(names):
            numbers = [
                value / kind.divisor
                for value in found["measured"][name].get(kind.key, ())
            ]
            if numbers:
                color = "#3b6ea5" if name.startswith("ovfuse") else "#9db8d2"
                axis.barh(row, statistics.median(numbers), color=color)
                axis.plot(numbers, [row] * len(numbers), "k.", markersize=3)
        axis.set_yticks(range(len(names)), names)
        axis.set_xlabel(f"{kind.title}, {kind.unit}".replace("`", ""), fontsize=9)
    figure.suptitle(
        f"{found['options']['size']} MiB, medians of {found['options']['rounds']} "
        "rounds (dots: each round); rates: more is better, times and memory: less"
    )
    figure.tight_layout()
    figure.savefig(path, dpi=80)
