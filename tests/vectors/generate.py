"""Makes all vectors anew: scripts/make-vectors. README.txt says what they are."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.vectors import (
    build,
    contents,
    envelopes,
    jsons,
    keyfiles,
    manifests,
    pointers,
)

MODULES = (pointers, envelopes, jsons, manifests, keyfiles, contents)
"""Each adds its vectors to `build.VECTORS` when it is imported."""


def generate(directory: Path) -> None:
    """Write all vectors, in the place of those that are there."""
    for old in directory.glob("*/expect.json"):
        shutil.rmtree(old.parent)
    for name in build.VECTORS:
        for path, content in build.files_of(name).items():
            file = directory / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str):
                file.symlink_to(content)
            else:
                file.write_bytes(content)
    build.TRUSTED.write_text(build.trusted_line())


if __name__ == "__main__":
    generate(build.HERE)
