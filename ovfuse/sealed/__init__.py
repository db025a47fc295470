"""The format of docs/format.md: bytes and files, no FUSE, no OpenVINO.

Order of the modules, each importing only from earlier ones:
layout, offsets, canonical < primitives, signing, wrapping, beneath
< manifest, envelope, terms < objects (reader, writer, stream) < opening, publish.
"""
