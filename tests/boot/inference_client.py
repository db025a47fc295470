"""Asks an inference service without a pause; a process of that test.

    python inference_client.py URL ASKED PROGRESS

ASKED is a JSON file with a list of pairs: a request, and the outputs that it must have.
Until its input ends, it asks one after the other; an error or a wrong output ends it.
After each it writes how many there were, as 8 bytes, to the file PROGRESS.
"""

import http.client
import json
import os
import select
import sys
from pathlib import Path
from urllib.parse import urlsplit


def main(url: str, asked: str, progress: str) -> None:
    """Ask until standard input is at its end."""
    pairs = json.loads(Path(asked).read_text("utf-8"))
    written = os.open(progress, os.O_WRONLY | os.O_CREAT, 0o644)
    done = 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        request, wanted = pairs[done % len(pairs)]
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
        connection.request("POST", urlsplit(url).path, json.dumps(request))
        answer = connection.getresponse()
        found = json.loads(answer.read())
        connection.close()
        assert (answer.status, found) == (200, wanted), (answer.status, found, wanted)
        done += 1
        os.pwrite(written, done.to_bytes(8, "big"), 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
