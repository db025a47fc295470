"""An app that loads models through ovfuse, and drops whatever it can before it infers.

    python -m tests.load.app DIRECTORY PATH...

Prints a line of JSON for each path: the digest of the outputs, or the error. A crash is
the exit status.
"""

import gc
import json
import sys
from typing import Any

import numpy as np

from tests.support.infer import OPENVINO_CONFIG, digest, make_input

CHURN = [200, 5_000, 70_000, 300_000, 3_000_000]


def request_for(directory: str, path: str) -> Any:
    """Return a request that outlives all that it was made from."""
    import openvino

    import ovfuse

    core = openvino.Core()
    with ovfuse.open_model(directory) as model:
        if path.endswith(".blob"):
            compiled = model.import_model(core, path, "CPU", OPENVINO_CONFIG)
        else:
            compiled = model.compile_model(core, path, "CPU", OPENVINO_CONFIG)
    return compiled.create_infer_request()


def infer(directory: str, path: str) -> str:
    """Return the digest of the outputs."""
    request = request_for(directory, path)
    gc.collect()
    # Whoever gets the memory of something freed writes over it.
    churn = [np.full(size, 0xA5, np.uint8) for size in CHURN for _ in range(20)]
    inputs = [
        make_input(
            number,
            [max(1, dimension.get_min_length()) for dimension in port.partial_shape],
            port.get_element_type().to_dtype(),
        )
        for number, port in enumerate(request.model_inputs)
    ]
    request.infer(inputs)
    del churn
    return digest([np.array(tensor.data) for tensor in request.output_tensors])


def main() -> None:
    """Infer with each model."""
    from ovfuse.errors import OvfuseError

    directory, *paths = sys.argv[1:]
    for path in paths:
        found = {"path": path}
        try:
            found["digest"] = infer(directory, path)
        except OvfuseError as error:
            found["error"] = type(error).__name__
            found["message"] = error.message
        print(json.dumps(found), flush=True)  # noqa: T201 - for the test


if __name__ == "__main__":
    main()
