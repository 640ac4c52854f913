"""The native library: its structures, which binary is loaded, and what is compiled here and kept."""

import ctypes
import logging
import shutil
from pathlib import Path

import pytest

from attractor_server.engine.compute.native import library as loading
from attractor_server.engine.compute.native.build import FOLDER, LEVELS, compile_library, find_compiler
from attractor_server.engine.compute.native.interface import fill, parse_structures, structures

COMPILER = find_compiler()
compiled = pytest.mark.skipif(COMPILER is None, reason="no C compiler on this machine")

FAKE = """#!/bin/sh
test "$1" = --version && echo fake && exit
echo run >> {runs}
for last; do test "$previous" = -o && target=$last; previous=$last; done
{then}
"""


class FakeCompiler:
    """A compiler that does what a line of shell says, and counts how often it is run."""

    def __init__(self, folder: Path, then: str) -> None:
        self.path, self._runs = str(folder / "fake"), folder / "runs"
        Path(self.path).write_text(FAKE.format(runs=self._runs, then=then))
        Path(self.path).chmod(0o700)

    @property
    def runs(self) -> int:
        return len(self._runs.read_text().splitlines()) if self._runs.exists() else 0

    def load(self) -> ctypes.CDLL | None:
        return loading.load_compiled([self.path])


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert COMPILER is not None
    path = tmp_path_factory.mktemp("native") / "kernels.so"
    compile_library(path, COMPILER, ("-O0", "-Wno-psabi"))
    return path


@pytest.fixture
def compiler(binary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCompiler:
    """A quick one, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return FakeCompiler(tmp_path, f'cp {binary} "$target"')


@compiled
def test_structures_are_laid_out_as_the_compiler_does_it(tmp_path: Path) -> None:
    names = [(name, field[0]) for name, one in structures().items() for field in one._fields_]
    assert len(names) > 30
    offsets = ", ".join(f"offsetof({name}, {field})" for name, field in names)
    sizes = ", ".join(f"sizeof({name})" for name in structures())
    source = tmp_path / "layout.c"
    source.write_text(f'#include <stddef.h>\n#include "kernels.h"\nconst int64_t layout[] = {{{offsets}, {sizes}}};')
    assert COMPILER is not None
    compile_library(tmp_path / "layout.so", COMPILER, (f"-I{FOLDER}",), [str(source)])
    wanted = [getattr(structures()[name], field).offset for name, field in names]
    wanted += [ctypes.sizeof(one) for one in structures().values()]
    found = (ctypes.c_int64 * len(wanted)).in_dll(ctypes.CDLL(str(tmp_path / "layout.so")), "layout")
    assert list(found) == wanted


def test_a_structure_wants_all_of_its_fields_and_no_other() -> None:
    loop = {name: 0 for name, *_ in structures()["loop"]._fields_}
    assert fill("loop", **{**loop, "d": 7}).d == 7
    with pytest.raises(TypeError, match="loop has the fields"):
        fill("loop", **{**loop, "width": 1})
    with pytest.raises(TypeError, match="loop has the fields"):
        fill("loop", d=1)


@pytest.mark.parametrize("field", ["double x", "int64_t x[3]", "float **x", "float (*x)(float)", "unknown x", "x"])
def test_a_header_that_is_not_understood_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=r"expected|no name"):
        parse_structures(f"typedef struct {{\n    {field};\n}} one;")


def test_the_binary_of_the_package_is_for_processors_that_have_its_instructions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    needs = LEVELS["x86_64"].needs
    monkeypatch.setattr(loading, "cpu_flags", lambda: needs | {"sse2"})
    assert loading.find_shipped(tmp_path) is None, "there is none"
    path = tmp_path / LEVELS["x86_64"].file_name
    path.touch()
    assert loading.find_shipped(tmp_path) == path
    for flag in ("avx2", "fma"):
        monkeypatch.setattr(loading, "cpu_flags", lambda flag=flag: needs - {flag})
        assert loading.find_shipped(tmp_path) is None
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert loading.find_shipped(tmp_path) is None


def test_a_binary_that_cannot_be_loaded_is_told_of_and_another_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"no library")
    monkeypatch.setattr(loading, "find_shipped", lambda _: broken)
    assert loading.load_shipped(tmp_path) is None
    assert "cannot be loaded, and is compiled here instead" in caplog.text


def test_without_a_compiler_there_is_no_library_and_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert loading.load_compiled(["no-such-compiler"]) is None
    assert "no C compiler among no-such-compiler: reads and writes on the CPU run without native kernels" in caplog.text


@compiled
def test_a_compiler_that_fails_is_told_of_and_done_without(
    compiler: FakeCompiler, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    failing = FakeCompiler(tmp_path, "echo 'error: it is broken' >&2; exit 1")
    assert failing.load() is None
    assert "without native kernels" in caplog.text
    assert "error: it is broken" in caplog.text


@compiled
def test_flags_that_a_compiler_does_not_know_are_left_out(compiler: FakeCompiler, tmp_path: Path, binary: Path) -> None:
    picky = FakeCompiler(tmp_path, f'case "$*" in *=native*) exit 1 ;; *) cp {binary} "$target" ;; esac')
    assert picky.load() is not None


@compiled
def test_a_library_is_compiled_once_and_kept(compiler: FakeCompiler, tmp_path: Path) -> None:
    first, second = compiler.load(), compiler.load()
    assert first is not None
    assert second is not None
    assert compiler.runs == 1
    folder = tmp_path / "cache/attractor/native"
    assert [path.name for path in folder.iterdir()] == [loading.cache_path(compiler.path).name]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert loading.cache_path(compiler.path).stat().st_mode & 0o777 == 0o600


@compiled
def test_a_damaged_library_is_compiled_anew(compiler: FakeCompiler) -> None:
    path = loading.cache_path(compiler.path)
    path.parent.mkdir(mode=0o700, parents=True)
    path.write_bytes(b"damaged")
    path.chmod(0o600)
    assert compiler.load() is not None
    assert compiler.runs == 1


@compiled
def test_a_library_that_others_could_have_written_is_compiled_anew(
    compiler: FakeCompiler, caplog: pytest.LogCaptureFixture
) -> None:
    assert compiler.load() is not None
    path = loading.cache_path(compiler.path)
    path.chmod(0o666)
    assert compiler.load() is not None
    assert compiler.runs == 2
    assert path.stat().st_mode & 0o777 == 0o600
    shutil.copy(path, path.parent / "other")
    path.unlink()
    path.symlink_to(path.parent / "other")
    assert compiler.load() is not None
    assert compiler.runs == 3
    path.parent.chmod(0o777)
    assert compiler.load() is not None
    assert compiler.runs == 4
    assert "is no folder of this user alone" in caplog.text


@compiled
def test_the_name_of_what_is_kept_depends_on_processor_and_compiler(
    compiler: FakeCompiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = loading.cache_path(compiler.path)
    Path(compiler.path).write_text(Path(compiler.path).read_text().replace("echo fake", "echo newer"))
    newer = loading.cache_path(compiler.path)
    monkeypatch.setattr("attractor_server.engine.compute.native.build.cpu_description", lambda: "another processor")
    assert len({here, newer, loading.cache_path(compiler.path)}) == 3


@compiled
def test_what_the_doctor_says_of_the_library(
    compiler: FakeCompiler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(loading, "find_shipped", lambda: None)
    monkeypatch.setattr(loading, "find_compiler", lambda *_: compiler.path)
    assert loading.describe_library() == (True, f"{compiler.path} compiles it at the first start")
    assert compiler.runs == 0
    assert compiler.load() is not None
    assert loading.describe_library() == (
        True,
        f"{loading.cache_path(compiler.path)}, compiled here by {compiler.path}",
    )
    monkeypatch.setattr(loading, "find_compiler", lambda *_: None)
    assert loading.describe_library()[0] is False
    monkeypatch.setattr(loading, "find_shipped", lambda: tmp_path / "kernels.so")
    assert loading.describe_library() == (True, f"{tmp_path / 'kernels.so'}, from the package")
