"""What an object file may hold before it is linked: code and constants of its own, and calls of a few C functions.

Linking must not be able to go wrong quietly. So an object with anything that asks for more (a section that can be
written, a relocation or a target that is not listed here) is refused when it is compiled.
ELF: System V ABI, chapter 4; numbers of relocations: the psABI supplements of x86-64 and AArch64.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

# What compiled code may refer to: plain C library functions that every process has.
ALLOWED_SYMBOLS = frozenset({"memcpy", "memset", "memmove", "bcmp", "memcmp"})

_PROGBITS, _SYMTAB, _RELA, _REL = 1, 2, 4, 9
_WRITE, _ALLOC, _EXEC = 1, 2, 4
_SECTIONS = (".text", ".rodata", ".eh_frame")  # and what begins with their names and a dot
_RELOCATIONS = {
    62: {2: "PC32", 4: "PLT32", 24: "PC64"},  # x86-64
    183: {
        260: "PREL64", 261: "PREL32", 275: "ADR_PREL_PG_HI21", 277: "ADD_ABS_LO12_NC", 278: "LDST8_ABS_LO12_NC",
        282: "JUMP26", 283: "CALL26", 284: "LDST16_ABS_LO12_NC", 285: "LDST32_ABS_LO12_NC",
        286: "LDST64_ABS_LO12_NC", 299: "LDST128_ABS_LO12_NC",
    },  # AArch64
}  # fmt: skip
_FOREIGN_WRITABLE = ("data", "bss", "common", "got", "tls", "thread")  # in section names of Mach-O and COFF


class ObjectError(RuntimeError):
    """An object file that must not be linked."""


@dataclass(frozen=True)
class _Section:
    name: str
    kind: int
    flags: int
    data: bytes
    link: int
    info: int


def _text(table: bytes, at: int) -> str:
    return table[at : table.index(b"\0", at)].decode()


def _sections(code: bytes) -> list[_Section]:
    """The section table of a 64-bit little-endian relocatable ELF file."""
    start, size, count, names = *struct.unpack_from("<Q", code, 0x28), *struct.unpack_from("<HHH", code, 0x3A)
    rows = [struct.unpack_from("<IIQQQQIIQQ", code, start + size * i) for i in range(count)]
    table = code[rows[names][4] : rows[names][4] + rows[names][5]]
    return [
        _Section(_text(table, r[0]), r[1], r[2], b"" if r[1] == 8 else code[r[4] : r[4] + r[5]], r[6], r[7])
        for r in rows
    ]


def _listed(name: str) -> bool:
    return any(name == known or name.startswith(known + ".") for known in _SECTIONS)


def _targets(sections: list[_Section], relocations: _Section) -> Iterator[tuple[int, str]]:
    """(type, target) of each relocation: the name of a section of this file, or "symbol NAME" of another."""
    symbols = sections[relocations.link]
    names = sections[symbols.link].data
    for at in range(0, len(relocations.data), 24):
        _, info, _ = struct.unpack_from("<QQq", relocations.data, at)
        name, _, _, where, _, _ = struct.unpack_from("<IBBHQQ", symbols.data, 24 * (info >> 32))
        target = f"symbol {_text(names, name)}" if where == 0 or where >= len(sections) else sections[where].name
        yield info & 0xFFFFFFFF, target


def _check_elf(code: bytes, allowed: frozenset[str]) -> None:
    (machine,) = struct.unpack_from("<H", code, 0x12)
    known = _RELOCATIONS.get(machine, {})
    sections = _sections(code)
    for section in sections:
        if section.flags & _ALLOC and (section.flags & _WRITE or not _listed(section.name)):
            raise ObjectError(f"it has a section {section.name}, which is not code or constants")
    for section in sections:
        if section.kind == _REL:
            raise ObjectError(f"it has relocations of a form that is not expected ({section.name})")
        if section.kind != _RELA:
            continue
        for kind, target in _targets(sections, section):
            if kind not in known:
                raise ObjectError(f"it has a relocation of type {kind} (to {target}), which is not on the list")
            if not _listed(target) and target.removeprefix("symbol ") not in allowed:
                raise ObjectError(f"it refers to {target}")


def _check_foreign(code: bytes) -> None:
    import llvmlite.binding as llvm

    for section in llvm.object_file.ObjectFileRef.from_data(code).sections():
        name = section.name().decode(errors="replace")
        if any(part in name for part in _FOREIGN_WRITABLE) and section.size():
            raise ObjectError(f"it has a section {name}, which is not code or constants")


def check_object(code: bytes, allowed: frozenset[str] = ALLOWED_SYMBOLS) -> None:
    """Raises ObjectError unless linking the object file cannot go wrong; `allowed` are names it may call."""
    if code[:4] == b"\x7fELF":
        if code[4:6] != b"\x02\x01":
            raise ObjectError("it is not 64-bit little-endian code")
        _check_elf(code, allowed)
    else:
        _check_foreign(code)
