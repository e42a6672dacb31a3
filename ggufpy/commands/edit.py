"""`ggufpy edit`: metadata set, added, removed and renamed, in the file itself or in a new one."""

from __future__ import annotations

import argparse
import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ggufpy.commands import UsageError
from ggufpy.commands._options import add_model_argument, find_model
from ggufpy.errors import GGUFError
from ggufpy.hub import in_cache
from ggufpy.support import console

if TYPE_CHECKING:
    from ggufpy.format.edit import Change, Draft, Editor
    from ggufpy.format.values import Typed

HELP = "set, remove and rename metadata of a file"
DESCRIPTION = """Change the metadata of a file. Removals are done first, then renames, then what is set.

A value takes the type of the one it replaces; a new key needs its type: --set KEY:TYPE=VALUE, TYPE being uint8 to
uint64, int8 to int64, float32, float64, bool, string or array[...] of one of these, its value a JSON list.
Changes that would leave a file that does not fit together are refused unless --force is given.

A change of few bytes is written into the file by one call that a disk does wholly or not at all, any other into a
copy that takes the file's name at the end: at every moment the old file or the new one is there.
JSON: file, output, mode (none, in-place, copy, rewrite), bytes, dry_run,
changes: [{action: add|set|remove|rename, key, to, old: {type, value|count}, new}].

examples:
  ggufpy edit model.gguf --set general.name="My model"
  ggufpy edit model.gguf --set llama.rope.freq_base=500000 --set tokenizer.ggml.add_bos_token:bool=false
  ggufpy edit model.gguf --set 'general.tags:array[string]=["chat", "small"]' -o tagged.gguf
  ggufpy edit model.gguf --chat-template template.jinja
  ggufpy edit model.gguf --rename general.title=general.name --remove general.url --dry-run"""

TEMPLATE = "tokenizer.chat_template"
_SET = re.compile(r"(?P<key>[^=]+?)(?::(?P<type>[a-z0-9]+(?:\[.*?\]+)?))?=(?P<value>.*)", re.DOTALL)
_WIDTH = 60


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    add_model_argument(parser, "file")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="write the changed file here, MODEL stays")
    for flag, metavar, text in (
        ("--set", "KEY[:TYPE]=VALUE", "change a value, or add one with its type; again for more"),
        ("--remove", "KEY", "remove a key; again for more"),
        ("--rename", "OLD=NEW", "give a key another name; again for more"),
    ):
        parser.add_argument(flag, action="append", default=[], metavar=metavar, help=text)
    parser.add_argument(
        "--set-json", type=Path, metavar="FILE", help='a JSON object of keys and values, or {"type": ..., "value": ...}'
    )
    parser.add_argument("--chat-template", type=Path, metavar="FILE", help="a jinja2 template; - is stdin")
    parser.add_argument("--force", action="store_true", help="also what may break the file")
    parser.add_argument("--dry-run", action="store_true", help="say what would change, and write nothing")


def run(args: argparse.Namespace) -> int:
    """Make the changes and print them; 0. Raises GGUFError, with the file as it was, where one cannot be made."""
    from ggufpy.format.edit import Editor, risks
    from ggufpy.support.progress import Progress

    if not (args.set or args.remove or args.rename or args.set_json or args.chat_template):
        raise UsageError("nothing to change: give --set, --remove, --rename, --set-json or --chat-template")
    args.file = _input(args)
    editor = Editor(args.file)
    _check_output(args)
    draft = editor.draft()
    _apply(args, draft)
    danger = next(risks(draft), None)
    if danger is not None and not args.force:
        raise GGUFError(f"refused: {danger}; --force does it all the same")
    mode, written = editor.mode(draft, args.output), 0
    if not args.dry_run:
        with Progress() as progress:
            mode, written = editor.save(draft, args.output, progress)
    _report(args, editor, draft, (mode, written))
    return 0


def _input(args: argparse.Namespace) -> Path:
    """The file to change. Raises GGUFError for one of the cache, which is to stay what was fetched."""
    path = find_model(args.file)
    if in_cache(path) and args.output is None and not args.dry_run:
        raise GGUFError(f"{args.file} is a fetched model, which is not changed in the cache: write a copy with -o OUT")
    return path


def _check_output(args: argparse.Namespace) -> None:
    if args.output is not None and args.output.exists():
        if args.output.samefile(args.file):
            raise GGUFError(f"{args.output} is the input itself; leave -o out to change it in place")
        if not args.force:
            raise GGUFError(f"{args.output} is there already; remove it, or replace it with --force")


def _apply(args: argparse.Namespace, draft: Draft) -> None:
    from ggufpy.format.values import Typed

    for key in args.remove:
        draft.remove(key)
    for text in args.rename:
        old, equals, new = text.partition("=")
        if not (old and equals and new):
            raise UsageError(f"--rename takes OLD=NEW, not {text!r}")
        draft.rename(old, new)
    if args.set_json is not None:
        _apply_json(args.set_json, draft)
    for text in args.set:
        key, value = parse_set(text, draft)
        draft.set(key, value)
    if args.chat_template is not None:
        draft.set(TEMPLATE, Typed("string", _template(args.chat_template, args.force)))


def parse_set(text: str, draft: Draft) -> tuple[str, Typed]:
    """The key and the value of `KEY=VALUE` or `KEY:TYPE=VALUE`. GGUFError where they make no value."""
    plain, equals, rest = text.partition("=")
    if not plain or not equals:
        raise UsageError(f"--set takes KEY=VALUE or KEY:TYPE=VALUE, not {text!r}")
    if plain in draft.values:  # also a key with a colon in it
        return plain, parse_value(rest, _inner_type(draft.typed(plain)), plain)
    match = _SET.fullmatch(text)
    if match is None or match["type"] is None:
        import difflib

        near = difflib.get_close_matches(plain, list(draft.values), n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise GGUFError(
            f"there is no metadata key {plain!r}{hint}; to add it, give its type: --set {plain}:string=VALUE"
        )
    return match["key"], parse_value(match["value"], match["type"], match["key"])


def _inner_type(value: Typed) -> str:
    """The type that new text is read as; arrays within an array are typed one by one, of the first one's kind."""
    inner = value.value[0].type if value.type == "array[array]" and len(value.value) else ""
    return f"array[{inner}]" if inner else value.type


def parse_value(text: str, kind: str, key: str) -> Typed:
    """Text as a value of a GGUF type; arrays are JSON lists. GGUFError where it is none."""
    from ggufpy.format.values import Typed, split_array_type

    check_type(kind, key)
    if split_array_type(kind) is not None:
        try:
            value: Any = json.loads(text)
        except (ValueError, RecursionError) as e:
            raise GGUFError(f"{key}: {kind} takes a JSON list such as [1, 2], and this is none: {e}") from None
        if not isinstance(value, list):
            raise GGUFError(f"{key}: {kind} takes a JSON list such as [1, 2], not {text[:40]!r}")
        return Typed(kind, value)
    if kind == "string":
        return Typed(kind, text)
    if kind == "bool":
        if text.lower() not in ("true", "false", "1", "0"):
            raise GGUFError(f"{key}: {text[:40]!r} is not a bool; give true or false")
        return Typed(kind, text.lower() in ("true", "1"))
    try:
        return Typed(kind, float(text) if kind.startswith("float") else int(text, 0))
    except ValueError:
        raise GGUFError(f"{key}: {text[:40]!r} is not a {kind}") from None


def check_type(kind: str, key: str) -> None:
    """GGUFError unless `kind` names a GGUF value type."""
    from ggufpy.format.values import BY_NAME, split_array_type

    name = kind
    while (inner := split_array_type(name)) is not None:
        name = inner
    if name not in BY_NAME or (name == "array" and name == kind):
        known = ", ".join(t for t in BY_NAME if t != "array")
        raise GGUFError(f"{key}: {kind!r} is not a GGUF value type ({known}, array[...])")


def _apply_json(path: Path, draft: Draft) -> None:
    """Set what a JSON object holds: plain values by the type there is, or by what they are, and typed ones."""
    from ggufpy.format.encode import infer
    from ggufpy.format.values import Typed

    try:
        data = json.loads(_text(path))
    except ValueError as e:
        if isinstance(e, GGUFError):
            raise
        raise GGUFError(f"{path} is not JSON: {e}") from None
    except RecursionError:
        raise GGUFError(f"{path} has lists within lists, too deep to be read; a GGUF value has few") from None
    if not isinstance(data, dict):
        raise GGUFError(f"{path} must hold a JSON object of keys and values")
    for key, value in data.items():
        if isinstance(value, dict):
            if set(value) != {"type", "value"} or not isinstance(value["type"], str):
                raise GGUFError(f'{path}: {key}: an object must be {{"type": ..., "value": ...}}')
            check_type(value["type"], key)
            draft.set(key, Typed(value["type"], value["value"]))
        elif key in draft.values:
            draft.set(key, Typed(_inner_type(draft.typed(key)), value))
        else:
            draft.set(key, infer(value, key))


def _text(path: Path) -> str:
    """A UTF-8 file, or stdin for `-`."""
    try:
        raw = console.read_input("give the name of a file") if str(path) == "-" else path.read_bytes()
        return raw.decode()
    except OSError as e:
        raise GGUFError(f"cannot read {path}: {e.strerror or e}") from None
    except UnicodeDecodeError as e:
        raise GGUFError(f"{path} is not UTF-8 text (byte {e.start})") from None


def _template(path: Path, force: bool) -> str:
    """A chat template that compiles; one that does not is refused unless `force`."""
    from ggufpy.chat.template import ChatTemplate

    source = _text(path)
    if not force:
        ChatTemplate(source, name=str(path))
    return source


def _report(args: argparse.Namespace, editor: Editor, draft: Draft, outcome: tuple[str, int]) -> None:
    """Print what changed, or would."""
    from ggufpy.commands.inspect import printable

    mode, written = outcome
    output = args.output or editor.path
    if args.json:
        outline = {"file": str(editor.path), "output": str(output), "mode": mode, "bytes": written}
        print(json.dumps({**outline, "dry_run": args.dry_run, "changes": [_as_json(c) for c in draft.changes]}))
        return
    for change in draft.changes:
        print(printable(_describe(change)))
    how = {
        "none": "nothing to change",
        "in-place": f"{written} bytes within the file",
        "copy": f"a copy of {written:,} bytes took its name",
        "rewrite": f"laid out anew, {written:,} bytes",
    }[mode]
    if args.dry_run:
        how = "nothing was written (--dry-run)"
    print(f"{printable(str(output))}: {how}")


def _as_json(change: Change) -> dict[str, Any]:
    out: dict[str, Any] = {"action": change.action, "key": change.key}
    if change.to:
        out["to"] = change.to
    for name, value in (("old", change.old), ("new", change.new)):
        if value is not None and not change.to:
            out[name] = {"type": value.type, **_json_value(value)}
    return out


def _json_value(typed: Typed) -> dict[str, Any]:
    """A single value as it is (what JSON lacks as text), of an array the number of elements."""
    value = typed.value
    if typed.type.startswith("array["):
        return {"count": len(value)}
    return {"value": str(value) if isinstance(value, float) and not math.isfinite(value) else value}


def _describe(change: Change) -> str:
    if change.to:
        return f"rename {change.key} -> {change.to}"
    old = "" if change.old is None else _brief(change.old)
    if change.new is None:
        return f"remove {change.key} ({old})"
    kind = change.new.type
    if change.old is None:
        return f"add {change.key} ({kind}): {_brief(change.new)}"
    kinds = kind if change.old.type == kind else f"{change.old.type} -> {kind}"
    return f"set {change.key} ({kinds}): {old} -> {_brief(change.new)}"


def _brief(typed: Typed) -> str:
    """A value as short text; of an array its count and first elements."""
    value = typed.value
    if isinstance(value, str):
        return json.dumps(value[:_WIDTH]) + ("..." if len(value) > _WIDTH else "")
    if typed.type.startswith("array["):
        first = [_element(v) for v in list(value[:4])]
        return f"{len(value):,}: [{', '.join(first)}{', ...' if len(value) > 4 else ''}]"
    return _element(value)


def _element(value: Any) -> str:
    if isinstance(value, bytes):
        return json.dumps(value[:_WIDTH].decode("utf-8", "replace"))
    if isinstance(value, str):
        return json.dumps(value[:_WIDTH])
    if isinstance(value, list):
        return f"[{len(value)} values]"
    if isinstance(value, float):
        return f"{value:.7g}"
    inner = getattr(value, "value", value)  # an array within an array
    return f"[{len(inner)} values]" if inner is not value else str(value)
