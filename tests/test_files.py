from __future__ import annotations

import json
import os

import pytest
import torch

from captum_face._files import printable, write_tensors, write_text, write_whole


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


def test_tensors_are_written_in_the_same_bytes_in_any_process(tmp_path):
    from safetensors import safe_open
    from safetensors.torch import load_file

    tensors = {"b": torch.arange(5.0), "a": torch.tensor([1, 2, 3]), "c": torch.ones(1).half()}
    facts = {f"key {i}": "väl\u4e2d" * i for i in range(20)}
    for name, given in (("one", facts), ("two", dict(reversed(facts.items())))):
        write_tensors(tmp_path / name, tensors, given)
        with safe_open(str(tmp_path / name), framework="pt") as file:
            assert file.metadata() == facts
        read = load_file(tmp_path / name)
        assert all(torch.equal(read[key], value) for key, value in tensors.items())
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    size = int.from_bytes((tmp_path / "one").read_bytes()[:8], "little")
    assert size % 8 == 0
    assert list(json.loads((tmp_path / "one").read_bytes()[8 : 8 + size])["__metadata__"]) == sorted(facts)


def test_names_that_are_no_text(tmp_path):
    name = os.fsdecode(b"\xe9.png") if os.name != "nt" else "\udce9.png"
    assert printable(name) == r"\udce9.png"
    assert printable("é≥") == "é≥"
    write_text(tmp_path / "names.json", json.dumps(["≥", name], ensure_ascii=False))
    assert json.loads((tmp_path / "names.json").read_text("utf-8")) == ["≥", name]
