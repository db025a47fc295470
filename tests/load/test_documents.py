"""The examples of docs/loader.md run as they stand; its table names what exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ovfuse.load.dumps import _NAMES
from tests.support import models, tiny_genai
from tests.support.mounting import Home, succeed

PAGE = Path(__file__).parents[2] / "docs" / "loader.md"
EXAMPLES = re.findall(
    r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE
)
BEFORE = """
import numpy
import openvino as ov
import ovfuse
core = ov.Core()
image = numpy.ones([1, 128], numpy.float32)
"""


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Somebody with the files that the examples name."""
    home = Home(directory=tmp_path_factory.mktemp("reader"))
    plain = home.directory / "resnet"
    models.large_ir(plain / "resnet.xml", models.MiB)
    models.export_blob(plain / "resnet.xml", plain / "resnet.blob")
    (plain / "labels.txt").write_text("cat\ndog\n")
    succeed(home, "keygen")
    sealed = home.directory / "resnet.sealed"
    succeed(home, "encrypt", "--name", "resnet", plain, sealed)
    tiny_genai.make_llm(home.directory / "chat")
    tiny_genai.make_embedding(home.directory / "chat" / "embedding")
    succeed(home, "encrypt", home.directory / "chat", home.directory / "chat.sealed")
    (home.directory / "device.txt").write_bytes(home.identity.read_bytes())
    (home.directory / "device.txt").chmod(0o600)
    (home.directory / "publisher.pub").write_bytes(home.public_key.read_bytes())
    return home


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 5


@pytest.mark.openvino
@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_example_runs(reader: Home, number: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BEFORE + EXAMPLES[number]],
        cwd=reader.directory,
        env=reader.environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr


def test_variables_that_are_named_are_refused() -> None:
    section = PAGE.read_text().split("## What OpenVINO may write to disk")[1]
    names = re.findall(r"`((?:OV|OPENVINO)_\w{5,})`", section)

    assert len(set(names)) >= 3
    assert all(_NAMES.fullmatch(name) for name in names)
