"""What NVIDIA devices there are, as the driver says, and what is missing to run layers on them.

Nothing of CuPy is imported: the driver's library is asked through ctypes, packages by their metadata.
"""

from __future__ import annotations

import ctypes
import re
import sys
from importlib import metadata
from typing import Any

from ggufpy.errors import GGUFError
from ggufpy.support.records import dataclass

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
LEAST_CUDA = 12_000  # as cuDriverGetVersion counts: 1000 * major + 10 * minor
LEAST_LEVEL = (7, 5)
LEAST_CUPY = (13, 6)
_CPU = "or run on the CPU with -ngl 0"

# Names of CuPy on PyPI, and the CUDA that each is built for; "cupy" is built on the machine, or comes from conda.
_PACKAGES = (("cupy-cuda12x", 12), ("cupy-cuda13x", 13), ("cupy", 0), ("cupy-cuda11x", 11))

# Of cuda.h: codes of cuInit that say what a user can do, and numbers of attributes.
_NO_DEVICE, _MISMATCH, _UNKNOWN = 100, 803, 999
_PROCESSORS, _MAJOR, _MINOR = 16, 75, 76


@dataclass(frozen=True)
class DeviceLine:
    """A device: its number among those that CUDA shows, name, compute capability ("sm_90"), multiprocessors, and bytes
    of memory in all."""

    index: int
    name: str
    level: str
    processors: int
    memory: int


@dataclass(frozen=True)
class Found:
    """What there is: devices, the CUDA version of the driver (12040 is 12.4; 0 without one), the CuPy package with its
    version ("" for none), and one line that says why no layer can run on a GPU ("" where they can)."""

    devices: tuple[DeviceLine, ...]
    driver: int
    cupy: str
    fault: str

    @property
    def cuda(self) -> str:
        """The driver's CUDA version for reading; "" without a driver."""
        return f"{self.driver // 1000}.{self.driver % 1000 // 10}" if self.driver else ""


def devices() -> tuple[DeviceLine, ...]:
    """The devices that the driver shows, whether or not CuPy is there."""
    return look().devices


def why_none() -> str:
    """One line that says why no layer can run on a GPU here, and what to do; "" where they can."""
    return look().fault


def look(library: str = LIBRARY) -> Found:
    """Everything about the GPUs of this machine. No context is made on them, and none of their memory is taken."""
    package, version = cupy_package()
    named = f"{package} {version}" if package else ""
    cuda = 0
    try:
        driver = _Driver(library)
        cuda = driver.version()
        shown = driver.devices()
    except GGUFError as error:
        return Found((), cuda, named, str(error))
    return Found(shown, cuda, named, _fault(shown, cuda, package, version))


def install(cuda: int) -> str:
    """The command that installs what a driver of this CUDA version can use."""
    return f"pip install 'ggufpy[cuda{13 if cuda >= 13_000 else 12}]'"


def cupy_package() -> tuple[str, str]:
    """The name and version of the CuPy that is installed; ("", "") for none."""
    for name, _ in _PACKAGES:
        try:
            return name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "", ""


def _fault(shown: tuple[DeviceLine, ...], cuda: int, package: str, version: str) -> str:
    """What is missing where there are a driver and a device."""
    has = f"{cuda // 1000}.{cuda % 1000 // 10}"
    if cuda < LEAST_CUDA:
        return f"the NVIDIA driver knows CUDA {has}, and 12.0 is needed: install a newer driver, {_CPU}"
    if not any(_capability(device.level) >= LEAST_LEVEL for device in shown):
        newest = shown[0]
        return f"{newest.name} is {newest.level}, and sm_75 (Turing, 2018) is needed: take another card, {_CPU}"
    if not package:
        return f"CuPy is missing: {install(cuda)}, {_CPU}"
    if _numbers(version)[:2] < LEAST_CUPY:
        least = ".".join(map(str, LEAST_CUPY))
        return f"{package} {version} is too old, {least} is needed: {install(cuda)} --upgrade, {_CPU}"
    built = dict(_PACKAGES)[package]
    if built and built > cuda // 1000:
        return (
            f"{package} needs a driver for CUDA {built}, and this one knows {has}: "
            f"pip uninstall {package}, then {install(cuda)}, or install a newer driver"
        )
    return ""


def _numbers(version: str) -> tuple[int, ...]:
    """ "13.6.0" as (13, 6, 0)."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


def _capability(level: str) -> tuple[int, int]:
    """ "sm_90" as (9, 0)."""
    digits = level.removeprefix("sm_")
    return int(digits[:-1]), int(digits[-1])


class _Driver:
    """The driver's library. Raises GGUFError where it cannot say what there is."""

    def __init__(self, library: str) -> None:
        try:
            self._library = ctypes.CDLL(library)
        except OSError as error:
            raise GGUFError(
                f"there is no NVIDIA driver here ({library} cannot be loaded): install the card's driver, {_CPU}"
            ) from error

    def version(self) -> int:
        """The newest CUDA that it can run."""
        return self._number("cuDriverGetVersion")

    def devices(self) -> tuple[DeviceLine, ...]:
        """Those that CUDA_VISIBLE_DEVICES leaves, at least one."""
        self._start()
        count = self._number("cuDeviceGetCount")
        if not count:
            raise GGUFError(self._said(_NO_DEVICE))
        return tuple(self._line(index) for index in range(count))

    def _start(self) -> None:
        if status := self._library.cuInit(ctypes.c_uint(0)):
            raise GGUFError(self._said(status))

    def _line(self, index: int) -> DeviceLine:
        device = ctypes.c_int(self._number("cuDeviceGet", ctypes.c_int(index)))
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", name, ctypes.c_int(len(name)), device)
        memory = ctypes.c_size_t()
        self._call("cuDeviceTotalMem_v2", ctypes.byref(memory), device)
        major, minor, processors = (
            self._number("cuDeviceGetAttribute", ctypes.c_int(attribute), device)
            for attribute in (_MAJOR, _MINOR, _PROCESSORS)
        )
        text = name.value.decode("utf-8", "replace")
        return DeviceLine(index, text, f"sm_{major}{minor}", processors, memory.value)

    def _number(self, function: str, *arguments: Any) -> int:
        """The int that a function of the driver writes through its first argument."""
        value = ctypes.c_int()
        self._call(function, ctypes.byref(value), *arguments)
        return value.value

    def _call(self, function: str, *arguments: Any) -> None:
        if status := self._library[function](*arguments):
            raise GGUFError(self._said(status))

    def _said(self, status: int) -> str:
        """What a code means to a user."""
        if status == _NO_DEVICE:
            return f"the NVIDIA driver shows no GPU: unset CUDA_VISIBLE_DEVICES, give the container its GPUs, {_CPU}"
        if status == _MISMATCH:
            return f"the NVIDIA driver was updated and its parts do not match: restart this machine, {_CPU}"
        hint = ": restart this machine" if status == _UNKNOWN else ": is the card's driver installed right?"
        text = ctypes.c_char_p()
        self._library.cuGetErrorName(ctypes.c_int(status), ctypes.byref(text))
        name = (text.value or b"an unknown error").decode("ascii", "replace")
        return f"the NVIDIA driver does not start: {name} ({status}){hint}, {_CPU}"
