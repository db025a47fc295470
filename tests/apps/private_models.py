"""Models that exist nowhere else on this machine: known ones with other contents."""

import re
import shutil
from pathlib import Path

import numpy as np

from tests.support.models import F32_SIZE

__all__ = ["IR", "NOTES", "ONNX", "make_private"]

IR = "large/large.xml"
ONNX = "onnx-external/external.onnx"
"""By the paths of `models.LAYOUT`: one with a .bin, one with external data."""

NOTES = "notes.txt"


def make_private(public: Path, directory: Path) -> None:
    """Copy two models, and give them weights, names and notes of their own.

    What the copies have in common with `public` is of the formats, and no secret.
    """
    random = np.random.default_rng()
    directory.mkdir()
    for model in (IR, ONNX):
        part = Path(model).parent
        shutil.copytree(public / part, directory / part)
    for weights in (
        directory / Path(IR).with_suffix(".bin"),
        directory / f"{ONNX}.data",
    ):
        count = weights.stat().st_size // F32_SIZE
        values = random.standard_normal(count, dtype=np.float32) / np.float32(25)
        weights.write_bytes(values.tobytes())
    xml = directory / IR
    text, changes = re.subn(
        r'(<layer id="\d+" name=")',
        lambda match: f"{match[1]}{random.bytes(20).hex()}-",
        xml.read_text(),
    )
    assert changes > 0
    xml.write_text(text)
    (directory / NOTES).write_text(
        "\n".join(random.bytes(30).hex() for _ in range(1000))
    )
