from __future__ import annotations

import alignment
import pytest
import torch

from captum_face.data import render_faces


def test_changes_are_what_their_names_say():
    face = render_faces(1)
    torch.testing.assert_close(alignment.changed(face), face, rtol=0, atol=1e-4)
    moved = alignment.changed(face, right=4, down=-8)
    torch.testing.assert_close(moved[..., :-8, 4:], face[..., 8:, :-4], rtol=0, atol=1e-3)
    torch.testing.assert_close(alignment.changed(face, degrees=90), face.rot90(-1, (2, 3)), rtol=0, atol=1e-3)
    larger = alignment.changed(face, scale=2)
    torch.testing.assert_close(
        larger[..., 55:57, 55:57].mean(), face[..., 55:57, 55:57].mean(), rtol=0, atol=0.05
    )
    tiles = alignment.shuffled(face, 4, torch.Generator().manual_seed(0))
    torch.testing.assert_close(tiles.sort().values.sum(), face.sum(), rtol=1e-4, atol=0)
    assert not torch.equal(tiles, face)


@pytest.mark.real
def test_command(run, shared):
    printed = run("alignment", "--shared", shared)
    rows = {line[:36].strip(): line[36:].split() for line in printed.splitlines()[2:-1]}
    assert int(rows["aligned crops"][2].rstrip("%")) <= 10
    for name in ("moved 16 px down", "turned by 90 degrees", "turned by 180 degrees", "one colour"):
        assert int(rows[name][2].rstrip("%")) >= 90, name
    assert printed.splitlines()[-1].startswith("time for an image")
