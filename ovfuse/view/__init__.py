"""The plaintext tree of a cipherdir, made of inodes; no FUSE.

Order of the modules: contract < nodes < contents (one sealing) < slot (one sealed
model) < scan (which models there are) < tree (the view of all of them).
"""

from ovfuse.view.contract import Handle, ModelStatus, Node, View
from ovfuse.view.tree import open_view

__all__ = ["Handle", "ModelStatus", "Node", "View", "open_view"]
