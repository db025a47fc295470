"""Programs that edit files, as bytes: for files too large to be mutated themselves.

Each step is a byte that chooses file and action, three bytes of offset, one byte of
length, and that many bytes of data. Every sequence of bytes is a program.
"""

from collections.abc import Mapping

_ACTIONS = 6
_HEAD = 5


def step(file: int, action: int, offset: int, data: bytes, *, files: int) -> bytes:
    """Return the bytes of one step; see `_edited` for the actions."""
    number = file + files * action
    return bytes([number, *offset.to_bytes(3, "big"), len(data)]) + data


def edited(files: Mapping[str, bytes], program: bytes) -> dict[str, bytes]:
    """Return the files after a program; they are numbered in order of their names."""
    result = dict(files)
    names = sorted(files)
    while len(program) >= _HEAD:
        action, number = divmod(program[0], len(names))
        offset = int.from_bytes(program[1:4], "big")
        end = _HEAD + program[4]
        name = names[number]
        result[name] = _edited(result[name], action, offset, program[_HEAD:end])
        program = program[end:]
    return result


def _edited(content: bytes, action: int, offset: int, data: bytes) -> bytes:
    offset %= len(content) + 1
    before, after = content[:offset], content[offset:]
    match action % _ACTIONS:
        case 0:
            return before + data + after[len(data) :]
        case 1:
            return before
        case 2:
            return before + data + after
        case 3:
            return before + after[len(data) :]
        case 4:
            return after + before
        case _:
            return data
