"""Time and peak memory of loading a large model, by every door: scripts/bench-load.

Each measurement is a process of its own that loads the model and infers once; the
variants take turns, so that a busy moment of the machine meets all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CACHE = ROOT / ".cache" / "bench-load"
MiB = 1 << 20

VARIANTS = {
    "plain": "plain files, by path (memory-mapped)",
    "plain, no mmap": "plain files, ENABLE_MMAP=False",
    "loader": "ovfuse.open_model on the sealed model",
    "loader, fresh mount": "ovfuse.open_model on a mount that nobody read before",
    "fresh mount": "by path, on a mount that nobody read before",
    "mount": "by path, on a mount whose pages are in the kernel's cache",
    "guide": "AES-256-CBC as OpenVINO's guide has it",
    "blob": "plain blob, read into bytes",
    "blob, loader": "sealed blob, ovfuse's import_model",
}


def main() -> None:
    """Build, measure in turns, say what came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1024, help="MiB of weights")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS), default=None)
    parser.add_argument("--json", type=Path, help="write every measurement here")
    parser.add_argument("--plot", type=Path, help="draw the medians here")
    arguments = parser.parse_args()
    found = run(arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    report(found)
    if arguments.plot:
        plot(found, arguments.plot)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return facts about the machine, and every measurement."""
    variants = arguments.only or list(VARIANTS)
    with tempfile.TemporaryDirectory(prefix="ovfuse-bench-") as directory:
        home = Path(directory)
        environment = os.environ | {
            "XDG_CONFIG_HOME": str(CACHE / "config"),
            "XDG_STATE_HOME": str(home / "state"),
            "PYTHONPATH": str(ROOT),
        }
        places = prepare(arguments, environment)
        places["mount"] = home / "mnt"
        places["mount"].mkdir()
        measured: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
        for number in range(arguments.rounds + 1):
            for name in variants:
                one = measure(name, places, environment)
                if number:  # the first round warms the page cache
                    measured[name].append(one)
                    print(f"round {number}: {name}: {one}", flush=True)
    return {"machine": machine(), "options": options(arguments), "measured": measured}


def options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was measured."""
    return {
        "size_mib": arguments.size,
        "rounds": arguments.rounds,
    }


def machine() -> dict[str, Any]:
    """What it was measured on."""
    cpus = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((c.split(": ")[1] for c in cpus if c.startswith("model name")), "?")
    return {
        "cpu": model,
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
    }


def prepare(
    arguments: argparse.Namespace, environment: dict[str, str]
) -> dict[str, Path]:
    """Build, seal and encrypt the model, unless that is done."""
    name = f"f32-{arguments.size}"
    plain, sealed, guide = (CACHE / f"{name}-{kind}" for kind in PLACES)
    if not (CACHE / f"{name}.done").exists():
        for directory in (plain, sealed, guide):
            shutil.rmtree(directory, ignore_errors=True)
        guide.mkdir(parents=True)
        size = str(arguments.size * MiB)
        child("build", str(plain), size, environment=environment)
        ovfuse("encrypt", plain, sealed, environment=environment)
        child("encrypt_cbc", str(plain), str(guide), environment=environment)
        (CACHE / f"{name}.done").touch()
    return {"plain": plain, "sealed": sealed, "guide": guide}


# Before each; what a virtual machine gave back to its host is slow at first.
TOUCHED = 3 * 1024 * MiB

PLACES = ("plain", "sealed", "guide")


def ovfuse(*arguments: str | Path, environment: dict[str, str]) -> None:
    """Run a command of ovfuse."""
    program = Path(sys.executable).with_name("ovfuse")
    subprocess.run(
        [program, *arguments], check=True, env=environment, stderr=subprocess.DEVNULL
    )


def child(*arguments: str, environment: dict[str, str]) -> str:
    """Run a function of bench_load_child.py in a process of its own."""
    command = [sys.executable, "-m", "scripts.bench_load_child", *arguments]
    done = subprocess.run(
        command, check=True, env=environment, cwd=ROOT, stdout=subprocess.PIPE
    )
    return done.stdout.decode()


def touch(size: int, environment: dict[str, str]) -> None:
    """Use and free so many bytes of memory, or most of what there is."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    command = [sys.executable, str(ROOT / "scripts" / "bench_child.py"), "touch"]
    subprocess.run(
        [*command, str(min(size, free * 2 // 3 // MiB * MiB))],
        check=True,
        env=environment,
        stdout=subprocess.DEVNULL,
    )


def measure(
    name: str, places: dict[str, Path], environment: dict[str, str]
) -> dict[str, float]:
    """Return seconds and MiB of one load and inference."""
    told = json.dumps({key: str(path) for key, path in places.items()})
    touch(TOUCHED, environment)
    with mounted(places, environment) if "mount" in name else nullcontext():
        if name == "mount":
            child("measure", name, told, environment=environment)
        found: dict[str, float] = json.loads(
            child("measure", name, told, environment=environment)
        )
    return found


@contextmanager
def mounted(places: dict[str, Path], environment: dict[str, str]) -> Iterator[None]:
    """Mount the sealed model; a mount begins without anything in the page cache."""
    ovfuse("mount", places["sealed"], places["mount"], environment=environment)
    try:
        yield
    finally:
        ovfuse("unmount", places["mount"], environment=environment)


def medians(found: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return the median of each value of each variant."""
    return {
        name: {key: statistics.median(one[key] for one in all_of) for key in all_of[0]}
        for name, all_of in found["measured"].items()
        if all_of
    }


def report(found: dict[str, Any]) -> None:
    """Print the medians as a table of Markdown."""
    values = medians(found)
    print(json.dumps(found["machine"]), json.dumps(found["options"]))
    print("| variant | load | first inference | in all | times plain | peak MiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, value in values.items():
        print(
            f"| {name} | {value['load']:.2f} s | {value['infer']:.2f} s "
            f"| {value['total']:.2f} s | {times_plain(found, name):.2f} "
            f"| {value['peak']:.0f} |"
        )


def times_plain(found: dict[str, Any], name: str) -> float:
    """Return the median of the ratios to plain files, or else to the first variant.

    Of each round one: what slows down the machine for a while slows down both.
    """
    measured = found["measured"]
    base = measured.get("plain") or next(iter(measured.values()))
    pairs = zip(measured[name], base, strict=True)
    ratios: list[float] = [one["total"] / plain["total"] for one, plain in pairs]
    return statistics.median(ratios)


def plot(found: dict[str, Any], path: Path) -> None:
    """Draw the medians: bars for time, with every round as a dot, and for memory."""
    import matplotlib as mpl  # noqa: PLC0415 - only who draws needs it

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - likewise

    values = medians(found)
    names = list(values)[::-1]
    figure, (times, peaks) = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True)
    loads = [values[name]["load"] for name in names]
    times.barh(names, loads, label="load and compile", color="#3b6ea5")
    times.barh(
        names,
        [values[name]["total"] - values[name]["load"] for name in names],
        left=loads,
        label="first inference",
        color="#9db8d2",
    )
    for row, name in enumerate(names):
        dots = [one["total"] for one in found["measured"][name]]
        times.plot(dots, [row] * len(dots), "k.", markersize=4)
    times.set_xlabel("seconds to the first inference (dots: every round)")
    times.legend(loc="lower right", fontsize=8)
    peaks.barh(names, [values[name]["peak"] for name in names], color="#c07f3c")
    peaks.set_xlabel("peak memory of the process, MiB (VmHWM)")
    chosen = found["options"]
    figure.suptitle(
        f"Loading {chosen['size_mib']} MiB of f32 weights, "
        f"medians of {chosen['rounds']} rounds"
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
