"""Times mounts, and what they are compared with: scripts/bench says how to run it.

Every number is taken in a process of its own, on a mount that nobody read before
("cold") or right after that ("second"). The encrypted files are in the page cache
throughout: what is compared are filesystems, not disks. In each round every candidate
has its turn at every measurement, so that a busy moment of the machine meets all of
them; before each cold one some memory is used and freed, since memory that a virtual
machine gave back is slow to get again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench_report
from bench_candidates import (
    CANDIDATES,
    OVFUSE,
    BenchError,
    Candidate,
    copy,
    fill,
    mounted,
    resident,
    version_of,
)

ROOT = Path(__file__).parents[1]
CHILD = ROOT / "scripts" / "bench_child.py"
MiB = 1 << 20
SMALL_FILE = b"a small file\n"

Numbers = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The options, and where things are."""

    asked: argparse.Namespace
    home: Path
    candidates: list[Candidate]

    @property
    def mountpoint(self) -> Path:
        return self.home / "mnt"

    def source(self, kind: str) -> Path:
        return self.home / f"plain-{kind}"

    def store(self, candidate: Candidate, kind: str) -> Path:
        if candidate.name in {"plain", "bindfs"}:
            return self.source(kind)
        name = "ovfuse" if candidate.is_ours else candidate.name
        return self.home / f"{name}-{kind}"

    def place(self, candidate: Candidate, kind: str) -> Path:
        """Return where its files are read."""
        return self.mountpoint if candidate.mount else self.store(candidate, kind)


def main() -> None:
    """Do what the options say."""
    asked = parse()
    if asked.report:
        found = json.loads(bench_report.DATA.read_text(encoding="utf-8"))
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        (ROOT / ".cache").mkdir(exist_ok=True)
        # Not /tmp, which may be memory.
        with tempfile.TemporaryDirectory(prefix="bench-", dir=ROOT / ".cache") as home:
            found = run(asked, Path(home))
    print(bench_report.tables(found))
    if asked.json:
        save(found, asked.json)
    if asked.plot:
        bench_report.plot(found, asked.plot)
    if asked.write:
        bench_report.write(found)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    add = parser.add_argument
    add("--size", type=int, default=1024, metavar="MIB", help="of the model")
    add("--files", type=int, default=10_000, help="of the directory that is listed")
    add("--reads", type=int, default=10_000, help="of 4 KiB, at random")
    add("--rounds", type=int, default=5)
    add("--touch", type=int, default=3072, metavar="MIB", help="before cold reads")
    names = [candidate.name for candidate in CANDIDATES]
    add("--only", action="append", choices=names, help="a candidate; may be repeated")
    add("--measure", action="append", choices=list(MEASUREMENTS), help="likewise")
    add("--json", type=Path, help="write every number to this file")
    add("--plot", type=Path, help="draw the medians into this file")
    add("--write", action="store_true", help="into docs: text, numbers and plot")
    add("--report", action="store_true", help="measure nothing, take docs' numbers")
    return parser.parse_args()


def run(asked: argparse.Namespace, home: Path) -> bench_report.Found:
    """Return the options, the machine, and every number."""
    os.environ |= dict.fromkeys(
        ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"), str(home)
    )
    wanted = [c for c in CANDIDATES if not asked.only or c.name in asked.only]
    missing = [candidate.name for candidate in wanted if not candidate.is_there]
    if missing:
        print(f"bench: not there, left out: {', '.join(missing)}", file=sys.stderr)
    there = [candidate for candidate in wanted if candidate.is_there]
    bench = Bench(asked=asked, home=home, candidates=there)
    bench.mountpoint.mkdir()
    found: bench_report.Found = {
        "machine": bench_report.machine(),
        "options": {key: getattr(asked, key) for key in ("size", "files", "reads")},
        "versions": {c.name: v for c in there if (v := version_of(c))},
        "measured": {c.name: defaultdict(list) for c in there},
    }
    prepare(bench)
    for number in range(1, asked.rounds + 1):
        measure(bench, number, found["measured"])
        found["options"]["rounds"] = number
        found["machine"]["load after"] = os.getloadavg()[1]
        if asked.json:  # what there is, if somebody stops it
            save(found, asked.json)
    return found


def prepare(bench: Bench) -> None:
    """Make the model and the directory of many files, and put them into all stores."""
    say("making the files")
    model = bench.source("model") / "model.xml"
    child("build", model, bench.asked.size * MiB)
    many = bench.source("many")
    many.mkdir()
    for number in range(bench.asked.files):
        (many / f"file-{number:06}").write_bytes(SMALL_FILE)
    for candidate in bench.candidates:
        for kind in ("model", "many"):
            if not (store := bench.store(candidate, kind)).exists():
                fill(candidate, bench.source(kind), store, bench.mountpoint)
    for path in bench.home.rglob("*"):
        if path.is_file():
            path.read_bytes()  # into the page cache


def measure(bench: Bench, number: int, measured: dict[str, dict[str, Any]]) -> None:
    """Give every candidate its turn at every measurement."""
    for name in bench.asked.measure or list(MEASUREMENTS):
        for candidate in bench.candidates:
            found = MEASUREMENTS[name](bench, candidate)
            for key, value in found.items():
                measured[candidate.name][key].append(round(value, 6))
            told = ", ".join(f"{key} {value:.4g}" for key, value in found.items())
            say(f"round {number}: {candidate.name}: {told}")


def save(found: bench_report.Found, path: Path) -> None:
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


# Measurements: each returns numbers by what they are called in the report


def reading(bench: Bench, candidate: Candidate) -> Numbers:
    """Read all of it, twice."""
    place = bench.place(candidate, "model")
    store = bench.store(candidate, "model")
    with mounted(candidate, store, bench.mountpoint, "model.xml") as start:
        touch(bench)
        found = {
            "cold read": child("read", place / "model.bin"),
            "second read": child("read", place / "model.bin"),
        }
        if candidate.mount:
            memory = resident(bench.mountpoint)
            found |= {"start": start, "memory": memory}
        return found


def mapping(bench: Bench, candidate: Candidate) -> Numbers:
    """Map it and touch every page, twice."""
    place = bench.place(candidate, "model")
    store = bench.store(candidate, "model")
    with mounted(candidate, store, bench.mountpoint, "model.xml"):
        touch(bench)
        return {
            "cold mmap": child("map_all", place / "model.bin"),
            "second mmap": child("map_all", place / "model.bin"),
        }


def random_reads(bench: Bench, candidate: Candidate) -> Numbers:
    """Read a page here and a page there."""
    place = bench.place(candidate, "model")
    store = bench.store(candidate, "model")
    with mounted(candidate, store, bench.mountpoint, "model.xml"):
        touch(bench)
        reads = bench.asked.reads
        return {
            "random": child("read_randomly", place / "model.bin", reads),
            "second random": child("read_randomly", place / "model.bin", reads),
        }


def beginning(bench: Bench, candidate: Candidate) -> Numbers:
    """Read the first bytes, as a program does that looks what kind of file it is."""
    place = bench.place(candidate, "model")
    store = bench.store(candidate, "model")
    with mounted(candidate, store, bench.mountpoint, "model.xml"):
        touch(bench)
        return {"beginning": child("read_beginning", place / "model.bin")}


def inference(bench: Bench, candidate: Candidate) -> Numbers:
    """Load the model with OpenVINO and infer, twice.

    Each time after memory was used and freed: besides the file OpenVINO fills a
    gigabyte of its own, its arrangement of the weights.
    """
    place = bench.place(candidate, "model")
    store = bench.store(candidate, "model")
    with mounted(candidate, store, bench.mountpoint, "model.xml"):
        touch(bench)
        cold = child("infer", place / "model.xml")
        touch(bench)
        return {
            "cold inference": cold,
            "second inference": child("infer", place / "model.xml"),
        }


def pauses(bench: Bench, candidate: Candidate) -> Numbers:
    """Kill the daemon, and reload, while somebody asks all along."""
    if candidate.name not in {"ovfuse on demand", "ovfuse default"}:
        return {}
    store = bench.store(candidate, "model")
    at = bench.mountpoint

    def kill() -> None:
        command = [f"{OVFUSE}", "status", "--json"]
        said = subprocess.run(command, capture_output=True, check=True)
        for mount in json.loads(said.stdout):
            if mount["mountpoint"] == f"{at}":
                os.kill(mount["pid"], signal.SIGKILL)

    with mounted(candidate, store, at, "model.xml"):
        child("read", at / "model.bin")  # and it is open, or in memory
        reload = [f"{OVFUSE}", "reload", f"{at}"]
        return {
            "pause, killed": longest_pause(at, kill),
            "pause, reload": longest_pause(at, lambda: candidate.run(reload)),
        }


def longest_pause(at: Path, disturb: Callable[[], None]) -> float:
    """Return the longest wait of a process that asks all along, in seconds."""
    command = [sys.executable, str(CHILD), "longest_pause", str(at)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        if process.stdout is not None:
            process.stdout.readline()
        disturb()
        time.sleep(1.0)  # until it has been answered again for a while
        output, _ = process.communicate()
    return float(output.split()[-1])


def listing(bench: Bench, candidate: Candidate) -> Numbers:
    """List a directory of many files, and ask for the status of each."""
    if candidate.is_renewed:
        return {}  # no page of a file is looked at
    store = bench.store(candidate, "many")
    with mounted(candidate, store, bench.mountpoint, "file-000000"):
        return {"listing": child("list_all", bench.place(candidate, "many"))}


def sealing(bench: Bench, candidate: Candidate) -> Numbers:
    """Put the model into a new store: `cp`, or `ovfuse encrypt`."""
    alike = {"plain, small pages", "bindfs", "ovfuse libfuse", "ovfuse default"}
    if candidate.name in alike:
        return {}  # as plain files, and as the other ways to mount
    source = bench.source("model")
    store = bench.home / "new"
    os.sync()
    touch(bench)
    began = time.perf_counter()
    try:
        if candidate.is_ours:
            fill(candidate, source, store, bench.mountpoint)
            seconds = time.perf_counter() - began
            return {"sealing": seconds, "sealing, synced": seconds}
        store.mkdir()
        if candidate.make:
            candidate.run(candidate.make(str(store)))
        with mounted(candidate, store, bench.mountpoint):
            began = time.perf_counter()
            copy(source, bench.mountpoint if candidate.mount else store)
            copied = time.perf_counter() - began
            subprocess.run(["sync", "-f", str(store)], check=True)
            return {
                "sealing": copied,
                "sealing, synced": time.perf_counter() - began,
            }
    finally:
        shutil.rmtree(store, ignore_errors=True)


MEASUREMENTS = {
    "reading": reading,
    "mapping": mapping,
    "random": random_reads,
    "beginning": beginning,
    "inference": inference,
    "pauses": pauses,
    "listing": listing,
    "sealing": sealing,
}


def touch(bench: Bench) -> None:
    """Use and free memory; see the head of this module."""
    child("touch", bench.asked.touch * MiB)


def child(*arguments: object) -> float:
    """Run a function of bench_child.py in a process of its own."""
    command = [sys.executable, str(CHILD), *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{arguments} failed with {done.returncode}")
    return float(done.stdout.split()[-1])


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()
