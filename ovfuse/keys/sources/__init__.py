"""Where an identity or a passphrase comes from: one module per source.

`parse_source` makes a `Source` of what follows `-i`; docs/keys.md says when to use
which. Nothing is kept: whoever needs it again reads it again. Threading: any thread,
each source by one at a time.
"""

from ovfuse.keys.sources.contract import Source
from ovfuse.keys.sources.words import parse_source

__all__ = ["Source", "parse_source"]
