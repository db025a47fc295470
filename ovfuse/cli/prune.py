"""`ovfuse prune`: remove the sealings that are not current."""

from ovfuse.cli import terminal
from ovfuse.cli.parameters import SingleCipherdir
from ovfuse.quote import quoted
from ovfuse.sealed.sealer import CipherdirWriter

__all__ = ["prune"]


def prune(cipherdir: SingleCipherdir) -> None:
    """Remove the sealings before the current one.

    Needs no key, and checks only the current one's envelope: `ovfuse verify` first.
    Mounts that serve an older one keep their open files.
    """
    with CipherdirWriter.open(cipherdir, create=False) as writer:
        count = writer.prune()
    sealings = "1 sealing" if count == 1 else f"{count} sealings"
    terminal.say(f"removed {sealings} from {quoted(cipherdir)}")
