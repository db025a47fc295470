"""The plaintext tree of a cipherdir, made of inodes; no FUSE.

Order of the modules: contract < nodes, kept (what a successor needs) < contents (one
sealing) < entrance < slot (one sealed model) < directories, scan (which models there
are), watch < tree (the view of all of them).
"""

from ovfuse.view.contract import Change, Handle, ModelStatus, Node, View
from ovfuse.view.tree import open_view
from ovfuse.view.watch import warm_up

__all__ = ["Change", "Handle", "ModelStatus", "Node", "View", "open_view", "warm_up"]
