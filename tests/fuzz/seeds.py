"""For scripts/fuzz: names of the targets; or the inputs that one starts with, as files.

python -m tests.fuzz.seeds [TARGET DIRECTORY]
"""

import hashlib
import sys
from pathlib import Path

from tests.fuzz.targets import all_targets


def main() -> None:
    """Do what the command line says."""
    with all_targets() as targets:
        if not sys.argv[1:]:
            sys.stdout.write("\n".join(targets) + "\n")
            return
        name, directory = sys.argv[1], Path(sys.argv[2])
        directory.mkdir(parents=True, exist_ok=True)
        for data in targets[name].seeds():
            path = directory / hashlib.sha256(data).hexdigest()[:16]
            path.write_bytes(data)


if __name__ == "__main__":
    main()
