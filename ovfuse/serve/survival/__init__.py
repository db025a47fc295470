"""A mount that outlives its daemon.

A keeper (`keeper`) is the daemon's parent: it holds the descriptor on which the
kernel's requests arrive and the records that the daemon sends (`channel`), and starts a
successor when the daemon was killed. What the kernel was told is counted in memory that
both share (`ledger`). docs/survival.md has the whole of it.
"""
