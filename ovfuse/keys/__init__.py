"""Where identities, recipients and trust come from; no FUSE, no OpenVINO.

`Unlocker` is what the rest of the program takes from here: a sealed model goes
in, an unlocked sealing or a clear error comes out. An `Opener` finds its key.
"""

from ovfuse.keys.history import Place
from ovfuse.keys.opener import IdentityOpener, Opener
from ovfuse.keys.unlocker import Unlocker

__all__ = ["IdentityOpener", "Opener", "Place", "Unlocker"]
