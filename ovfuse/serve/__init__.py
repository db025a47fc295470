"""The view over FUSE: what engines share once, the engines, a mount's lifecycle.

Nothing here imports a FUSE binding until a mount is made: a machine that only
seals needs no libfuse.
"""
