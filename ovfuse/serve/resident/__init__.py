"""Files that the kernel serves itself, from memory, after they were verified whole.

`memory_filesystem` is where they are, `budget` how many, `available` how much memory
there is, `backing` how the kernel is told of them, `policy` which are worth it, `files`
keeps them, `starting` asks whether there are to be any. Used by the engine.
"""

from ovfuse.serve.resident.files import ON_DEMAND, ResidentFiles, Wanted
from ovfuse.serve.resident.starting import start_resident_files

__all__ = ["ON_DEMAND", "ResidentFiles", "Wanted", "start_resident_files"]
