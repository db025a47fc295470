"""Coverage-guided fuzzing of one target with atheris, for scripts/fuzz.

    python -m tests.fuzz.explore TARGET FINDINGS [LIBFUZZER_OPTION | CORPUS]...

A finding does not end the run: each kind of it is written once to the directory
FINDINGS, the input and its traceback. What libFuzzer finds itself (a crash of native
code, a timeout, too much memory) does end it.
"""

import hashlib
import importlib
import random
import sys
import traceback
from pathlib import Path

atheris = importlib.import_module("atheris")  # not among the tests' requirements

with atheris.instrument_imports(include=["ovfuse", "cryptography", "json"]):
    from tests.fuzz.targets import Target, all_targets

_STRUCTURED = 0.7


class _Findings:
    """Inputs that broke a property, one of each kind."""

    def __init__(self, target: Target, directory: Path) -> None:
        self._target = target
        self._directory = directory
        self._known: set[str] = set()

    def check(self, data: bytes) -> None:
        try:
            self._target.check(data)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - also those of native code
            self._add(data, error)

    def _add(self, data: bytes, error: BaseException) -> None:
        last = traceback.extract_tb(error.__traceback__)[-1]
        kind = f"{type(error).__name__} {last.filename}:{last.lineno}"
        if kind in self._known:
            return
        self._known.add(kind)
        digest = hashlib.sha256(data).hexdigest()[:16]
        base = self._directory / f"{self._target.name}-{digest}"
        self._directory.mkdir(parents=True, exist_ok=True)
        base.write_bytes(data)
        text = "".join(traceback.format_exception(error))
        base.with_suffix(".txt").write_text(text, "utf-8", "backslashreplace")
        sys.stdout.write(f"FINDING {self._target.name}: {kind}: {base}\n")
        sys.stdout.flush()


def main() -> None:
    """Fuzz the target that the command line names."""
    name, findings, *options = sys.argv[1:]
    with all_targets() as targets:
        target = targets[name]
        found = _Findings(target, Path(findings))

        def mutate(data: bytes, max_size: int, seed: int) -> bytes:
            rng = random.Random(seed)
            if target.mutator is None or rng.random() > _STRUCTURED:
                return bytes(atheris.Mutate(data, max_size))
            changed = target.mutator(data, rng, max_size, atheris.Mutate)
            return changed if len(changed) <= max_size else data[:max_size]

        # To merge, libFuzzer starts itself again, by a shell.
        program = f"{sys.executable} -m tests.fuzz.explore {name} {findings}"
        arguments = [program, f"-max_len={target.max_size}", *options]
        atheris.Setup(arguments, found.check, custom_mutator=mutate)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
