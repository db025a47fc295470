"""A small inference service: one model of OpenVINO behind HTTP.

    python inference.py MODEL.xml [HOST:PORT]

    GET  /healthz   {"status": "ok"}
    POST /infer     {"INPUT": [[1.0, 2.0]], ...}   ->   {"OUTPUT": [[3.0]], ...}

Nothing here knows of ovfuse: the path of a model on a mount is a path. When a new
version of the model is shown there, it is compiled, and answers from then on. Inputs
and outputs go by their names in the model, or by their numbers. Needs openvino.
"""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import openvino

MAX_BODY_SIZE = 16 * 1024 * 1024
LOOK_SECONDS = 1.0

Stamp = tuple[tuple[int, int], ...]


class Model:
    """The version of a model that was last seen at a path."""

    def __init__(self, path: Path) -> None:
        self._core = openvino.Core()
        self._files = (path, path.with_suffix(".bin"))
        self._compiled, self._stamp = self._load()

    def infer(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the outputs; whatever is wrong with the inputs is an exception."""
        compiled = self._compiled  # also if there is another one in a moment
        ports = {name_of(port, i): port for i, port in enumerate(compiled.inputs)}
        if inputs.keys() != ports.keys():
            raise ValueError(f"inputs are {', '.join(ports)}")
        request = compiled.create_infer_request()
        request.infer(
            {
                port: np.asarray(inputs[name], port.get_element_type().to_dtype())
                for name, port in ports.items()
            }
        )
        return {
            name_of(port, i): request.get_tensor(port).data.tolist()
            for i, port in enumerate(compiled.outputs)
        }

    def follow(self) -> None:
        """Go on to new versions, for ever."""
        while True:
            time.sleep(LOOK_SECONDS)
            try:
                if self._look() != self._stamp:
                    self._compiled, self._stamp = self._load()
                    say("another version of the model is used")
            except (OSError, RuntimeError) as error:
                say(f"the model stays what it is: {error}")

    def _load(self) -> tuple[openvino.CompiledModel, Stamp]:
        while True:
            before = self._look()
            compiled = self._core.compile_model(self._files[0], "CPU")
            if self._look() == before:  # both files were of one version
                return compiled, before

    def _look(self) -> Stamp:
        found = [path.stat() for path in self._files]
        return tuple((status.st_ino, status.st_mtime_ns) for status in found)


def name_of(port: openvino.ConstOutput, number: int) -> str:
    """Return what a client calls an input or output."""
    return min(port.names, default=f"{number}")


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    timeout = 60
    model: Model

    def do_GET(self) -> None:
        """Tell whether all is well: without a model, there is no service."""
        if self.path == "/healthz":
            self._answer(HTTPStatus.OK, {"status": "ok"})
        else:
            self._answer(HTTPStatus.NOT_FOUND, {"error": "no such path"})

    def do_POST(self) -> None:
        """Infer."""
        size = self.headers.get("Content-Length", "")
        if self.path != "/infer":
            self._answer(HTTPStatus.NOT_FOUND, {"error": "no such path"})
        elif not size.isdigit() or int(size) > MAX_BODY_SIZE:
            self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": "too large"})
        else:
            self._infer(self.rfile.read(int(size)))

    def _infer(self, body: bytes) -> None:
        try:
            outputs = self.model.infer(json.loads(body))
        except Exception as error:  # noqa: BLE001  the client is told
            self._answer(HTTPStatus.BAD_REQUEST, {"error": str(error)})
        else:
            self._answer(HTTPStatus.OK, outputs)

    def _answer(self, status: HTTPStatus, answer: Mapping[str, Any]) -> None:
        data = json.dumps(answer).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if status >= HTTPStatus.BAD_REQUEST:  # the body may not have been read
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Log no requests."""


def say(text: str) -> None:
    """Log a line."""
    print(text, file=sys.stderr, flush=True)


def tell_systemd(text: str) -> None:
    """Tell how the start goes; see sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.connect(address.replace("@", "\0", 1))
            manager.send(text.encode())


def main(path: str, address: str = "127.0.0.1:8080") -> None:
    """Serve until SIGTERM."""
    Handler.model = Model(Path(path))
    host, _, port = address.rpartition(":")
    server = ThreadingHTTPServer((host, int(port)), Handler)
    threading.Thread(target=Handler.model.follow, daemon=True).start()
    tell_systemd("READY=1")
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
