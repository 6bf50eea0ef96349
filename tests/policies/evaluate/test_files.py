"""A run is there whole or not at all, wherever its folder is; what cannot be written is said before the judging."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from policies.evaluate import files
from policies.evaluate.evaluation import Evaluation
from policies.evaluate.files import NAMES, RunError, check_free


def inside(folder: Path) -> set[str]:
    return {item.name for item in folder.iterdir()}


def test_a_link_to_a_folder(small: Evaluation, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for force in (False, True):
        check_free(tmp_path / "link", force)
        small.write(tmp_path / "link")
        assert (tmp_path / "link").is_symlink()
        assert inside(tmp_path / "real") == set(NAMES)
    with pytest.raises(RunError, match="holds a run already"):
        check_free(tmp_path / "link", False)


def test_a_link_to_nowhere_leads_there_afterwards(small: Evaluation, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    check_free(tmp_path / "link", False)
    small.write(tmp_path / "link")
    assert inside(tmp_path / "far" / "away") == set(NAMES)


@pytest.mark.parametrize("name", [".", "../here", "./"])
def test_the_folder_that_one_stands_in(
    small: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    check_free(Path(name), False)
    small.write(Path(name))
    assert inside(tmp_path / "here") == set(NAMES)
    assert inside(tmp_path) == {"here"}


class Mounted:
    """A folder that is a disk of its own: nothing takes its place, and nothing moves in or out at once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.replace = folder, os.replace

    def __call__(self, here: Any, there: Any) -> None:
        if self.folder in {Path(here), Path(there)}:
            raise OSError(errno.EBUSY, "Device or resource busy")
        if Path(here).is_relative_to(self.folder) is not Path(there).is_relative_to(self.folder):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        self.replace(here, there)


def test_a_mount_point(small: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk").mkdir()
    monkeypatch.setattr(os, "replace", Mounted(tmp_path / "disk"))
    for force in (False, True):
        check_free(tmp_path / "disk", force)
        small.write(tmp_path / "disk")
        assert inside(tmp_path / "disk") == set(NAMES)
        assert inside(tmp_path) == {"disk"}
    assert len(files.read(tmp_path / "disk").rows) == 34


@pytest.mark.parametrize("at", range(8))
def test_the_old_run_stays_where_the_new_one_cannot_take_its_place(
    small: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Whichever of the moves fails, and the new run is not lost either: the error says where it is."""
    out = tmp_path / "run"
    small.write(out)
    before = {name: (out / name).read_bytes() for name in NAMES}
    moves, replace = 0, os.replace

    def fails(here: Any, there: Any) -> None:
        nonlocal moves
        moves += 1
        if moves == at + 1:
            raise OSError(errno.EIO, "Input/output error")
        replace(here, there)

    monkeypatch.setattr(os, "replace", fails)
    other = Evaluation({**small.manifest, "seconds": 77.0}, small.outcomes, small.results)
    with pytest.raises(RunError, match=r"cannot be written: Input/output error; the run is whole in") as error:
        other.write(out)
    kept = Path(str(error.value).rpartition(" ")[2])
    assert files.read(kept).manifest["seconds"] == 77.0
    assert {name: (out / name).read_bytes() for name in NAMES} == before
    check_free(out, force=True)  # what is left of it is in nobody's way


def test_an_interrupt_leaves_the_old_run_and_nothing_else(
    small: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.write(tmp_path / "run")
    replace = os.replace

    def interrupted(here: Any, there: Any) -> None:
        if Path(here).parent.name != "run" and Path(there).parent.name == "run" and Path(here).name == files.REPORT:
            monkeypatch.setattr(os, "replace", replace)
            raise KeyboardInterrupt
        replace(here, there)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        small.write(tmp_path / "run")
    assert inside(tmp_path / "run") == set(NAMES)
    assert len(files.read(tmp_path / "run").rows) == 34


def test_what_cannot_be_written_is_said_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match="cannot be written to: File name too long; name another folder"):
        check_free(tmp_path / ("x" * 300), False)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="is a file"):
        check_free(tmp_path / "file", False)
    with pytest.raises(RunError, match=r"cannot be written to: (Not a directory|File exists)"):
        check_free(tmp_path / "file" / "run", False)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("")
    with pytest.raises(RunError, match=r"holds other files \(mine.txt\)"):
        check_free(tmp_path / "other", True)
    (tmp_path / "shut").mkdir()

    def shut(path: Path, *_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", shut)
    with pytest.raises(RunError, match="shut cannot be written to: Read-only file system"):
        check_free(tmp_path / "shut", False)
    assert inside(tmp_path / "shut") == set()


def test_a_name_as_long_as_a_name_can_be(small: Evaluation, tmp_path: Path) -> None:
    out = tmp_path / ("x" * 255)
    check_free(out, False)
    assert inside(tmp_path) == set()
    small.write(out)
    assert inside(out) == set(NAMES)
