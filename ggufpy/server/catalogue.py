"""The models that may be asked for, by name. What a request says is looked up here, and is never a path.

In: models given on the command line, and a folder. Out: entries, each with its file.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import field, replace
from pathlib import Path
from threading import Lock

from ggufpy import hub
from ggufpy.errors import GGUFError
from ggufpy.server.facts import Facts, Reader, Stamp, stamp_of
from ggufpy.server.folder import Folder, parts_of, stem_of
from ggufpy.server.problems import BAD_REQUEST, NOT_FOUND, Problem
from ggufpy.support import checks
from ggufpy.support.records import dataclass

LONGEST = 512  # characters of a name; none is longer
TOLD = 10  # names that a refusal has
LATEST = "latest"  # the tag that ollama's clients add


@dataclass(frozen=True)
class Entry:
    """A model by name. `source` is what it is loaded from: a path, a known name or hf:owner/repo[:file-or-quant];
    `path` its file, or the first of its split set (`files`), None where it has not been fetched yet.

    `size` is in bytes, `modified` in seconds of Unix time. `aliases` are other names of it.
    """

    name: str
    source: str = ""
    path: Path | None = None
    files: tuple[Path, ...] = ()
    size: int = 0
    modified: float = 0.0
    aliases: tuple[str, ...] = ()
    reader: Reader = field(default_factory=Reader, compare=False, repr=False)

    def facts(self) -> Facts:
        """What its header says, read once for each state of its files. Raises GGUFError where there is no file."""
        return self.reader.facts(self._here())

    def digest(self) -> str:
        """64 hexadecimal digits that are others for another file. Raises GGUFError where there is no file."""
        return self.reader.digest(self._here())

    def stamp(self) -> Stamp:
        """Another one where its files have changed; empty where there is no file."""
        return stamp_of(self.files) if self.files else ()

    def _here(self) -> tuple[Path, ...]:
        if not self.files:
            raise GGUFError(f"{self.name} has not been fetched yet")
        return self.files


@dataclass(frozen=True)
class Given:
    """A model of the command line: its names, the first of them its own, and MODEL."""

    names: tuple[str, ...]
    source: str


def given_models(models: Sequence[str], aliases: Sequence[tuple[str, str]] = ()) -> list[Given]:
    """What MODELs and (NAME, MODEL) pairs of --alias say; the first is the default.

    Raises GGUFError for a file that is not there, and for a name that is given twice.
    """
    by_source: dict[str, list[str]] = {}
    for source in models:
        by_source.setdefault(source, []).append(_own_name(source))
    for name, source in aliases:
        if not name or len(name) > LONGEST or not name.isprintable():
            raise GGUFError(f"{shown(name)} cannot be a model's name: give 1 to {LONGEST} printable characters")
        _own_name(source)
        by_source.setdefault(source, []).append(name)
    given = [Given(tuple(dict.fromkeys(names)), source) for source, names in by_source.items()]
    seen: dict[str, str] = {}
    for each in given:
        for name in each.names:
            if seen.setdefault(_folded(name), each.source) != each.source:
                raise GGUFError(f"two models are called {name}: give one as --alias NAME={each.source}, without MODEL")
    return given


def _own_name(source: str) -> str:
    """What a MODEL is called: its file's name without .gguf, or its name. Raises GGUFError where it cannot be."""
    if source in hub.MODELS or source.startswith("hf:"):
        return source
    path = Path(checks.path("the model", source))
    if not path.is_file():
        hub.resolve(source)  # says what is wrong
    return stem_of(path.name)


def shown(name: str) -> str:
    """A name as an error has it: on one line, and not too long."""
    return repr(name if len(name) <= 80 else name[:77] + "...")


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


class _Table:
    """Entries by what they may be called."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = tuple(entries)
        self._exact: dict[str, list[Entry]] = {}
        self._folded: dict[str, list[Entry]] = {}
        self._short: dict[str, list[Entry]] = {}
        for entry in entries:
            for name in dict.fromkeys((entry.name, *entry.aliases)):
                self._exact.setdefault(name, []).append(entry)
                self._add(self._folded, _folded(name), entry)
                self._add(self._short, _folded(name.rpartition("/")[2]), entry)

    @staticmethod
    def _add(table: dict[str, list[Entry]], key: str, entry: Entry) -> None:
        some = table.setdefault(key, [])
        if not some or some[-1] is not entry:
            some.append(entry)

    def find(self, name: str) -> list[Entry]:
        """The entries that a name may mean."""
        for form in _forms(name):
            own = [entry for entry in self._exact.get(form, ()) if entry.name == form]
            found = own or self._exact.get(form) or self._folded.get(_folded(form)) or self._short.get(_folded(form))
            if found:
                return found
        return []


def _forms(name: str) -> Iterator[str]:
    """What a name may be in the table: as it is, without .gguf, without the tag "latest", another tag behind "-"."""
    yield name
    base, colon, tag = name.rpartition(":")
    if colon and base and "/" not in tag:
        for form in [base] if tag.lower() == LATEST else [f"{base}{joint}{tag}" for joint in "-._"]:
            yield form
            yield from _plain(form)
    yield from _plain(name)


def _plain(name: str) -> Iterator[str]:
    if name.lower().endswith(".gguf"):
        yield stem_of(name)


class Catalogue:
    """All models; `given` are those of the command line. `folder` is looked at again for every listing, and for a name
    that is not known. For any thread."""

    def __init__(self, given: Sequence[Given], folder: Folder | None = None, allow_pull: bool = False) -> None:
        self.given, self._folder, self._allow_pull = tuple(given), folder, allow_pull
        self._reader = folder.reader if folder is not None else Reader()
        self._lock = Lock()  # of the table's making
        self._fetched: dict[str, Given] = {}  # because requests named them
        self._table = _Table([])
        self.entries()

    @classmethod
    def of_names(cls, names: Sequence[str]) -> Catalogue:
        """Names without files, for models that are made in another way than by loading."""
        return cls([Given((name,), "") for name in names])

    @property
    def changes(self) -> bool:
        """Whether there may be others at another time."""
        return self._folder is not None

    def entries(self) -> list[Entry]:
        """All that there is now: those of the command line in order, then those of the folder by name."""
        with self._lock:
            given = [self._entry(each) for each in (*self.given, *self._fetched.values())]
            own = {path.resolve(): i for i, entry in enumerate(given) for path in entry.files[:1]}
            taken = {_folded(name) for entry in given for name in (entry.name, *entry.aliases)}
            found = []
            for entry in self._in_folder():
                i = own.get(entry.files[0].resolve()) if own else None
                if i is not None:  # the same file, under another name
                    given[i] = replace(given[i], aliases=(*given[i].aliases, entry.name))
                elif _folded(entry.name) not in taken:
                    found.append(entry)
            self._table = _Table([*given, *found])
            return list(self._table.entries)

    def _entry(self, given: Given) -> Entry:
        name, *others = given.names
        if not given.source:
            return Entry(name, aliases=tuple(others), reader=self._reader)
        if given.source.startswith("hf:"):
            repo, _, choice = given.source[3:].partition(":")
            others += [given.source, given.source[3:], f"hf:{repo}", repo] if choice else [given.source, repo]
        entry = Entry(name, given.source, aliases=tuple(n for n in others if n != name), reader=self._reader)
        path = hub.kept(given.source)
        return entry if path is None else self._placed(entry, path)

    def fetched(self, entry: Entry, path: Path) -> Entry:
        """The entry with its file, which is listed from now on. Raises GGUFError where the file is gone again."""
        made = self._placed(entry, path)
        if made.path is None:
            raise GGUFError(f"{path} is not there")
        if entry.source not in (each.source for each in self.given):
            with self._lock:
                self._fetched[entry.name] = Given((entry.name,), entry.source)
        return made

    @staticmethod
    def _placed(entry: Entry, path: Path) -> Entry:
        """An entry with its file."""
        files = parts_of(path)
        try:
            stats = [file.stat() for file in files]
        except OSError:
            return entry  # gone: loading says so
        size, modified = sum(stat.st_size for stat in stats), max(stat.st_mtime for stat in stats)
        aliases = dict.fromkeys((*entry.aliases, stem_of(path.name)))
        return replace(
            entry, path=path, files=files, size=size, modified=modified,
            aliases=tuple(name for name in aliases if name != entry.name),
        )  # fmt: skip

    def _in_folder(self) -> list[Entry]:
        if self._folder is None:
            return []
        return [
            Entry(each.name, str(each.files[0]), each.files[0], each.files, each.size, each.modified, (), self._reader)
            for each in self._folder.models()
        ]

    def find(self, name: object, look: bool = True) -> Entry:
        """The entry that a request means; None and "" mean the first. `look`: the folder is looked at again for a name
        that is not known. Raises Problem 404, and 400 for what is no name or means several."""
        if name is None or name == "":
            if not self._table.entries and not self.entries():
                raise Problem(NOT_FOUND, "no model is served: there is none in the folder", "model_not_found", "model")
            return self._table.entries[0]
        if not isinstance(name, str):
            raise Problem(BAD_REQUEST, f"model is {checks.shown(name)}; it must be a text", None, "model")
        found = self.known(name)
        if found is None and look and self.changes and len(name) <= LONGEST:
            self.entries()
            found = self.known(name)
        if found is None:
            found = self._pulled(name)
        return found

    def known(self, name: str) -> Entry | None:
        """What is in the table as it was at the last listing. Raises Problem 400 for a name that means several."""
        found = self._table.find(name) if len(name) <= LONGEST else []
        if len(found) > 1:
            names = _told([entry.name for entry in found])
            raise Problem(BAD_REQUEST, f"model {shown(name)} may be {names}: say which", "model_ambiguous", "model")
        return found[0] if found else None

    def _pulled(self, name: str) -> Entry:
        """A model that is fetched because a request names it. Raises Problem 404 where that may not be."""
        can_be = len(name) <= LONGEST and (name in hub.MODELS or name.startswith("hf:"))
        if can_be and self._allow_pull:
            from ggufpy.hub.hf import parse

            try:
                if name.startswith("hf:"):
                    parse(name)
            except GGUFError as error:
                raise Problem(NOT_FOUND, str(error), "model_not_found", "model") from None
            return self._entry(Given((name,), name))
        names = _told([entry.name for entry in self._table.entries]) or "none"
        hint = "; others are fetched only with ggufpy serve --allow-pull" if can_be else ""
        told = f"there is no model {shown(name)}; known: {names}{hint}"
        raise Problem(NOT_FOUND, told, "model_not_found", "model")


def _told(names: Sequence[str]) -> str:
    more = f" and {len(names) - TOLD} more" if len(names) > TOLD else ""
    return ", ".join(names[:TOLD]) + more
