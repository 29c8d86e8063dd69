from __future__ import annotations

import os

import pytest

from captum_face._files import write_text, write_whole


def test_what_fails_half_way_leaves_the_file_that_was_there(tmp_path):
    path = tmp_path / "table.csv"
    write_text(path, "whole\r\n")

    def broken(unfinished):
        unfinished.write_text("ha")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        write_whole(path, broken)
    assert path.read_bytes() == b"whole\r\n"
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_files_are_as_open_as_the_user_wants_them(tmp_path, mask, mode):
    """Maps of faces are not for everybody; a file that its library closed is as open as others."""

    def for_the_owner_alone(unfinished):
        unfinished.unlink()
        os.close(os.open(unfinished, os.O_CREAT | os.O_WRONLY, 0o600))

    before = os.umask(mask)
    try:
        write_text(tmp_path / "a", "")
        write_whole(tmp_path / "b", for_the_owner_alone)
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in "ab"] == [mode, mode]
