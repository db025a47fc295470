"""The engine that speaks the kernel's FUSE protocol itself; Linux only.

Order of the modules: wire (layouts) < operations (one request, one reply), notifier
(what changes) < session (the first handshake) < engine (threads).
"""

from ovfuse.serve.kernel.engine import KernelEngine

__all__ = ["KernelEngine"]
