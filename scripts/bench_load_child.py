"""What bench_load.py runs in processes of their own."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import openvino

KEY, IV = bytes(range(32)), bytes(range(16))
MiB = 1 << 20
CHUNK_SIZE = 16 * MiB


def build(directory: str, size: str) -> None:
    """Make the model, and its compiled blob."""
    import openvino  # noqa: PLC0415 - each process imports what it measures

    from tests.support import models  # noqa: PLC0415 - likewise

    path = Path(directory) / "model.xml"
    models.large_ir(path, int(size))
    compiled = openvino.Core().compile_model(path, "CPU")
    with path.with_suffix(".blob").open("wb") as file:
        file.write(compiled.export_model().getbuffer())


def encrypt_cbc(plain: str, target: str) -> None:
    """Encrypt as `openssl enc -aes-256-cbc -K -iv` does."""
    from cryptography.hazmat.primitives.ciphers import (  # noqa: PLC0415 - likewise
        Cipher,
        algorithms,
        modes,
    )
    from cryptography.hazmat.primitives.padding import PKCS7  # noqa: PLC0415

    for name in ("model.xml", "model.bin"):
        encryptor = Cipher(algorithms.AES(KEY), modes.CBC(IV)).encryptor()
        padder = PKCS7(128).padder()
        with (
            (Path(plain) / name).open("rb") as source,
            (Path(target) / f"{name}.enc").open("wb") as out,
        ):
            while piece := source.read(CHUNK_SIZE):
                out.write(encryptor.update(padder.update(piece)))
            out.write(encryptor.update(padder.finalize()) + encryptor.finalize())


def decrypt_cbc(path: Path) -> memoryview:
    """Decrypt as OpenVINO's guide does: the whole file into a buffer, unchecked."""
    from cryptography.hazmat.primitives.ciphers import (  # noqa: PLC0415 - likewise
        Cipher,
        algorithms,
        modes,
    )

    data = path.read_bytes()
    decryptor = Cipher(algorithms.AES(KEY), modes.CBC(IV)).decryptor()
    buffer = bytearray(len(data) + 15)
    size = decryptor.update_into(data, buffer)
    decryptor.finalize()
    return memoryview(buffer)[: size - buffer[size - 1]]


def load_guide(core: openvino.Core, directory: str) -> openvino.CompiledModel:
    """Decrypt into buffers and read the model from them."""
    import numpy as np  # noqa: PLC0415 - likewise
    import openvino  # noqa: PLC0415 - likewise

    root = Path(directory)
    topology = bytes(decrypt_cbc(root / "model.xml.enc"))
    weights = np.frombuffer(decrypt_cbc(root / "model.bin.enc"), np.uint8)
    tensor = openvino.Tensor(weights, shared_memory=True)
    KEPT.append(weights)
    return core.compile_model(core.read_model(topology, tensor), "CPU")


KEPT: list[npt.NDArray[np.uint8]] = []  # or OpenVINO would read freed memory


def load(
    core: openvino.Core, name: str, places: dict[str, str]
) -> openvino.CompiledModel:
    """Return the compiled model, by one of the doors."""
    if "loader" in name:
        return load_by_ovfuse(core, name, places)
    if name == "guide":
        return load_guide(core, places["guide"])
    if name == "blob":
        blob = Path(places["plain"]) / "model.blob"
        return core.import_model(blob.read_bytes(), "CPU")
    if name == "plain, no mmap":
        core.set_property({"ENABLE_MMAP": False})
    directory = places["mount" if name in {"mount", "fresh mount"} else "plain"]
    return core.compile_model(f"{directory}/model.xml", "CPU")


def load_by_ovfuse(
    core: openvino.Core, name: str, places: dict[str, str]
) -> openvino.CompiledModel:
    """Return the compiled model, by the loader."""
    import ovfuse  # noqa: PLC0415 - its import counts

    with ovfuse.open_model(places["mount" if "mount" in name else "sealed"]) as model:
        if name == "blob, loader":
            return model.import_model(core, "model.blob", "CPU")
        return model.compile_model(core, "model.xml", "CPU")


def measure(name: str, told: str) -> None:
    """Load and infer once; print seconds and MiB."""
    import numpy as np  # noqa: PLC0415 - an app has them before it loads anything
    import openvino  # noqa: PLC0415 - likewise

    core = openvino.Core()
    core.get_property("CPU", "FULL_DEVICE_NAME")  # loads the plugin
    places = json.loads(told)
    before = time.perf_counter()
    compiled = load(core, name, places)
    loaded = time.perf_counter()
    shape = [d.get_min_length() or 1 for d in compiled.inputs[0].partial_shape]
    values = np.ones(shape, np.float32)
    compiled([values])
    inferred = time.perf_counter()
    found = {
        "load": loaded - before,
        "infer": inferred - loaded,
        "total": inferred - before,
        "peak": peak(),
    }
    print(json.dumps({key: round(value, 4) for key, value in found.items()}))


def peak() -> float:
    """Return the largest resident size of this process so far, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmHWM")


if __name__ == "__main__":
    {
        "build": build,
        "encrypt_cbc": encrypt_cbc,
        "measure": measure,
    }[sys.argv[1]](*sys.argv[2:])
