"""What is said of GPUs where there are some and where something is missing, by a driver that is made here."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from ggufpy import cli
from ggufpy.backends.gpu import cuda, listing
from ggufpy.backends.gpu.listing import DeviceLine, Found

# A driver that says what the environment tells it to.
DRIVER = """
#include <cstdlib>
#include <cstring>
static int told(const char* name, int otherwise) {
    const char* text = getenv(name);
    return text ? atoi(text) : otherwise;
}
extern "C" {
int cuDriverGetVersion(int* version) { *version = told("FAKE_CUDA", 12040); return 0; }
int cuInit(unsigned flags) { return flags ? 1 : told("FAKE_INIT", 0); }
int cuDeviceGetCount(int* count) { *count = told("FAKE_COUNT", 2); return 0; }
int cuDeviceGet(int* device, int index) { *device = index + 40; return 0; }
int cuDeviceGetName(char* name, int size, int device) {
    if (told("FAKE_NAME", 0)) return told("FAKE_NAME", 0);
    strncpy(name, device == 40 ? "Fake Card" : "Other Card", size);
    return 0;
}
int cuDeviceTotalMem_v2(size_t* bytes, int device) { *bytes = (device - 39) * (size_t(3) << 33); return 0; }
int cuDeviceGetAttribute(int* value, int attribute, int device) {
    int level = told("FAKE_LEVEL", 90);
    *value = attribute == 75 ? level / 10 : attribute == 76 ? level % 10 : attribute == 16 ? 100 + device : -1;
    return 0;
}
int cuGetErrorName(int status, const char** name) {
    *name = status == 3 ? "CUDA_ERROR_NOT_INITIALIZED" : 0;
    return status == 3 ? 0 : 1;
}
}
"""
CPU = ", or run on the CPU with -ngl 0"
CARDS = (
    DeviceLine(0, "Fake Card", "sm_90", 140, 3 << 33),
    DeviceLine(1, "Other Card", "sm_90", 141, 3 << 34),
)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of such a library."""
    compiler = shutil.which("g++")
    if compiler is None or sys.platform == "win32":
        pytest.skip("no g++ here, with which a driver that is none is made")
    source = tmp_path_factory.mktemp("driver") / "driver.cpp"
    source.write_text(DRIVER)
    made = source.with_suffix(".so")
    subprocess.run([compiler, "-shared", "-fPIC", str(source), "-o", str(made)], check=True)
    return str(made)


@pytest.fixture(autouse=True)
def packages(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The packages that are installed, with their versions."""
    made = {"cupy-cuda12x": "14.2.0"}
    true_version = metadata.version

    def version(name: str) -> str:
        if not name.startswith("cupy"):
            return true_version(name)
        if name not in made:
            raise metadata.PackageNotFoundError(name)
        return made[name]

    monkeypatch.setattr(metadata, "version", version)
    return made


def test_devices_are_listed(driver: str) -> None:
    found = listing.look(driver)
    assert found == Found(CARDS, 12_040, "cupy-cuda12x 14.2.0", "")
    assert found.cuda == "12.4"


def test_no_driver(tmp_path: Path) -> None:
    library = str(tmp_path / "libcuda.so.1")
    found = listing.look(library)
    assert found.devices == ()
    assert found.cuda == ""
    assert found.fault == (
        f"there is no NVIDIA driver here ({library} cannot be loaded): install the card's driver{CPU}"
    )


@pytest.mark.parametrize(
    ("told", "line"),
    [
        (
            {"FAKE_INIT": "100"},
            f"the NVIDIA driver shows no GPU: unset CUDA_VISIBLE_DEVICES, give the container its GPUs{CPU}",
        ),
        (
            {"FAKE_COUNT": "0"},
            f"the NVIDIA driver shows no GPU: unset CUDA_VISIBLE_DEVICES, give the container its GPUs{CPU}",
        ),
        (
            {"FAKE_INIT": "803"},
            f"the NVIDIA driver was updated and its parts do not match: restart this machine{CPU}",
        ),
        (
            {"FAKE_INIT": "999"},
            f"the NVIDIA driver does not start: an unknown error (999): restart this machine{CPU}",
        ),
        (
            {"FAKE_NAME": "3"},
            "the NVIDIA driver does not start: CUDA_ERROR_NOT_INITIALIZED (3): is the card's driver installed right?"
            f"{CPU}",
        ),
        (
            {"FAKE_CUDA": "11080"},
            f"the NVIDIA driver knows CUDA 11.8, and 12.0 is needed: install a newer driver{CPU}",
        ),
        (
            {"FAKE_LEVEL": "61"},
            f"Fake Card is sm_61, and sm_75 (Turing, 2018) is needed: take another card{CPU}",
        ),
    ],
)  # fmt: skip
def test_drivers_that_are_no_use(driver: str, monkeypatch: pytest.MonkeyPatch, told: dict[str, str], line: str) -> None:
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert listing.look(driver).fault == line


@pytest.mark.parametrize(
    ("has", "cuda_version", "line"),
    [
        ({}, 12_040, f"CuPy is missing: pip install 'ggufpy[cuda12]'{CPU}"),
        ({}, 13_010, f"CuPy is missing: pip install 'ggufpy[cuda13]'{CPU}"),
        (
            {"cupy-cuda12x": "13.5.1"}, 12_040,
            f"cupy-cuda12x 13.5.1 is too old, 13.6 is needed: pip install 'ggufpy[cuda12]' --upgrade{CPU}",
        ),
        (
            {"cupy-cuda13x": "14.2.0"}, 12_080,
            "cupy-cuda13x needs a driver for CUDA 13, and this one knows 12.8: pip uninstall cupy-cuda13x, then "
            "pip install 'ggufpy[cuda12]', or install a newer driver",
        ),
        ({"cupy-cuda13x": "14.2.0"}, 13_000, ""),
        ({"cupy-cuda12x": "13.6.0"}, 13_000, ""),
        ({"cupy": "14.0.0rc1"}, 12_000, ""),
        ({"cupy-cuda11x": "13.6.0"}, 12_000, ""),
    ],
)  # fmt: skip
def test_packages_that_are_no_use(
    driver: str,
    packages: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    has: dict[str, str],
    cuda_version: int,
    line: str,
) -> None:
    packages.clear()
    packages.update(has)
    monkeypatch.setenv("FAKE_CUDA", str(cuda_version))
    found = listing.look(driver)
    assert found.fault == line
    assert found.devices == CARDS  # which are there all the same
    assert found.cupy == " ".join(next(iter(has.items()), ()))


def test_all_have_one_line(driver: str, packages: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    packages.clear()
    for init in ("0", "3", "34", "100", "803", "999"):
        monkeypatch.setenv("FAKE_INIT", init)
        fault = listing.look(driver).fault
        assert "\n" not in fault
        assert fault.endswith("-ngl 0")


def test_what_others_ask(driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = listing.look(driver)
    monkeypatch.setattr(listing, "look", lambda: found)
    assert listing.devices() == CARDS
    assert listing.why_none() == ""


def test_listing_loads_no_cupy() -> None:
    code = "import sys; from ggufpy.backends.gpu import cuda; cuda.listing.look(); print('cupy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# -- doctor --


def _doctor(capsys: pytest.CaptureFixture[str]) -> tuple[str, dict[str, object]]:
    assert cli.main(["doctor", "--quick", "--json"]) == 0
    shown = capsys.readouterr().out
    return shown, json.loads(shown.splitlines()[-1])["gpus"]


def test_doctor_lists_devices(driver: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = listing.look(driver)
    monkeypatch.setattr(listing, "look", lambda: found)
    monkeypatch.setattr(cuda, "fault", lambda: "")
    shown, gpus = _doctor(capsys)
    assert "\ngpus      0: Fake Card, sm_90, 25.8 GB, 140 multiprocessors\n" in shown
    assert "\n          1: Other Card, sm_90, 51.5 GB, 141 multiprocessors\n" in shown
    assert "\n          driver for CUDA 12.4, cupy-cuda12x 14.2.0\n" in shown
    assert gpus["devices"][1] == {
        "index": 1, "name": "Other Card", "level": "sm_90", "processors": 141, "memory": 3 << 34
    }  # fmt: skip
    assert (gpus["driver_cuda"], gpus["cupy"], gpus["missing"]) == ("12.4", "cupy-cuda12x 14.2.0", None)
    monkeypatch.setattr(cuda, "fault", lambda: "NVRTC is missing: install it")
    assert "          no layers on a GPU: NVRTC is missing: install it\n" in _doctor(capsys)[0]


def test_doctor_says_what_is_missing(
    packages: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    packages.clear()
    found = listing.look(str(tmp_path / "libcuda.so.1"))
    monkeypatch.setattr(listing, "look", lambda: found)
    shown, gpus = _doctor(capsys)
    assert "\ngpus      no layers on a GPU: there is no NVIDIA driver here (" in shown
    assert gpus == {"devices": [], "driver_cuda": None, "cupy": None, "missing": found.fault}
