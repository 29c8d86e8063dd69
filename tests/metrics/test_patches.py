from __future__ import annotations

import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from captum_face import PairSimilarity
from captum_face.metrics import paste_patches, patch_effect


@pytest.fixture
def faces():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(3, 3, 24, 20, generator=generator), torch.rand(3, 3, 24, 20, generator=generator)


@pytest.mark.parametrize("layout", ["random", "grid"])
@pytest.mark.parametrize("several", [True, False])
def test_patches_show_the_other_and_nothing_else_changes(faces, layout, several):
    images, cohort = faces[0], faces[1] if several else faces[1][:1]
    before = images.clone()
    patched = paste_patches(images, cohort, n_patches=5, patch_size=4, layout=layout, seed=3)
    assert torch.equal(images, before)
    assert torch.equal(patched.masks, patched.patches.any(1))
    for i in range(3):
        for y in range(24):
            for x in range(20):
                source = cohort[i if several else 0] if patched.masks[i, y, x] else images[i]
                assert torch.equal(patched.images[i, :, y, x], source[:, y, x])


def corners(patch):
    rows, columns = (patch.any(axis).nonzero()[:, 0] for axis in (1, 0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


@pytest.mark.parametrize("layout", ["random", "grid"])
@pytest.mark.parametrize("central", [1.0, 0.6])
def test_each_patch_is_a_square_inside_the_region(faces, layout, central):
    patched = paste_patches(*faces, n_patches=6, patch_size=4, layout=layout, central=central, seed=0)
    assert patched.patches.shape == (3, 6, 24, 20)
    low = {1.0: (0, 0), 0.6: (5, 4)}[central]
    high = {1.0: (24, 20), 0.6: (19, 16)}[central]
    places = []
    for patch in patched.patches.flatten(0, 1):
        top, bottom, left, right = corners(patch)
        assert (bottom - top, right - left) == (4, 4)
        assert patch.sum() == 16
        assert low[0] <= top
        assert low[1] <= left
        assert bottom <= high[0]
        assert right <= high[1]
        places.append((top, left))
    assert len(set(places)) > 4
    if layout == "grid":
        assert (patched.patches.sum(1) <= 1).all()
        assert {(top - places[0][0]) % 4 for top, _ in places} == {0}
        assert {(left - places[0][1]) % 4 for _, left in places} == {0}


def test_published_protocol_and_the_cells_of_a_face():
    face, other = torch.zeros(1, 3, 112, 112), torch.ones(1, 3, 112, 112)
    patched = paste_patches(face, other, seed=0)
    assert patched.patches.shape == (1, 27, 112, 112)
    assert (patched.patches.sum((2, 3)) == 256).all()
    assert int(patched.masks.sum()) < 27 * 256  # they overlap
    whole = paste_patches(face, other, n_patches=49, layout="grid", seed=0)
    assert whole.masks.all()
    face_cells = paste_patches(face, other, n_patches=25, layout="grid", central=0.75, seed=0)
    expected = torch.zeros(112, 112, dtype=torch.bool)
    expected[16:96, 16:96] = True
    assert torch.equal(face_cells.masks[0], expected)


@pytest.mark.parametrize("layout", ["random", "grid"])
def test_seeds(faces, layout):
    options = {"n_patches": 3, "patch_size": 4, "layout": layout}
    torch.manual_seed(0)
    first = paste_patches(*faces, **options, seed=1)
    after = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(after, torch.rand(1))  # the global generator was not used
    assert torch.equal(first.patches, paste_patches(*faces, **options, seed=1).patches)
    assert not torch.equal(first.patches, paste_patches(*faces, **options, seed=2).patches)
    assert not torch.equal(first.patches[0], first.patches[1])
    part = paste_patches(faces[0][:2], faces[1][:2], **options, seed=1)
    assert torch.equal(first.patches[:2], part.patches)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"layout": "raster"}, ValueError, "unknown layout 'raster'"),
        ({"n_patches": 0}, ValueError, "n_patches"),
        ({"patch_size": 2.5}, ValueError, "patch_size"),
        ({"patch_size": 21}, ValueError, "inside the region of 24x20"),
        ({"layout": "grid", "n_patches": 31}, ValueError, "at most 30 patches"),
        ({"layout": "grid", "n_patches": 10, "central": 0.6}, ValueError, "at most 9 patches"),
        ({"central": 0.0}, ValueError, "central as a share"),
        ({"central": 1.2}, ValueError, "central as a share"),
        ({"seed": "x"}, TypeError, "seed as an integer"),
        ({"cohort": torch.rand(2, 3, 24, 20)}, ValueError, "cohort of shape"),
        ({"cohort": torch.rand(3, 3, 20, 24)}, ValueError, "cohort of shape"),
        ({"images": torch.full((3, 3, 24, 20), float("nan"))}, ValueError, "finite images"),
    ],
)
def test_bad_patches(faces, options, error, message):
    with pytest.raises(error, match=message):
        paste_patches(**{"images": faces[0], "cohort": faces[1], "n_patches": 3, "patch_size": 4, **options})


class Weighted(nn.Module):
    """A dot product whose weights are planted: with B all ones, the score is the sum of weight x pixel."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight.sqrt())

    def forward(self, images):
        return (self.weight * images.mean(1)).flatten(1)


@pytest.fixture
def planted():
    """A model of which every pixel's part is known, patched black images and white partners."""
    weight = torch.rand(16, 16, generator=torch.Generator().manual_seed(0))
    pair = PairSimilarity(Weighted(weight), score="dot")
    originals = torch.ones(2, 3, 16, 16)
    patched = paste_patches(
        originals, torch.zeros(1, 3, 16, 16), n_patches=6, patch_size=4, layout="grid", seed=0
    )
    return pair, weight, originals, patched


@pytest.mark.parametrize("side", ["a", "b"])
@pytest.mark.parametrize("mass", ["signed", "dissimilar"])
def test_perfect_inverse_and_constant_maps(planted, side, mass):
    pair, weight, originals, patched = planted
    inputs = (originals, patched.images) if side == "b" else (patched.images, originals)
    misleading = torch.randn(2, 3, 16, 16)

    def effect(own):
        own = own.expand(2, 3, 16, 16)
        attributions = (misleading, own) if side == "b" else (own, misleading)
        return patch_effect(pair, inputs, attributions, patched, originals, side=side, mass=mass)

    perfect = effect(-weight)  # what is missing speaks against, as much as it would bring
    expected = torch.stack([torch.stack([weight[p].sum() for p in patches]) for patches in patched.patches])
    torch.testing.assert_close(perfect.gains.float(), expected)
    torch.testing.assert_close(perfect.masses.float(), expected)
    assert perfect.correlation.tolist() == [pytest.approx(1)] * 2
    assert effect(weight - 2).correlation.tolist() == [pytest.approx(-1)] * 2
    assert effect(torch.zeros(16, 16)).correlation.tolist() == [0, 0]
    assert effect(torch.full((16, 16), -1.0)).correlation.tolist() == [0, 0]
    # Everything speaks for a match, but least where most is missing: only the signed mass can tell.
    kind = effect(1 - weight).correlation.tolist()
    assert kind == ([pytest.approx(1)] * 2 if mass == "signed" else [0, 0])


def test_gains_and_correlation_against_a_loop(pair, faces):
    images, cohort = (face[..., :18, :14] for face in faces)
    patched = paste_patches(images, cohort, n_patches=7, patch_size=5, seed=4)  # they overlap
    partner = cohort[1:2]
    attr = torch.randn(3, 3, 18, 14, generator=torch.Generator().manual_seed(0))
    result = patch_effect(pair, (partner, patched.images), (attr, attr), patched, images)
    assert all(values.dtype == torch.float64 for values in result)
    for i in range(3):
        with torch.no_grad():
            base = pair(partner, patched.images[i : i + 1])
            gains, masses = [], []
            for patch in patched.patches[i]:
                restored = patched.images[i].clone()
                restored[:, patch] = images[i][:, patch]
                gains.append(float(pair(partner, restored[None]) - base))
                masses.append(-sum(float(attr[i, :, y, x].mean()) for y, x in patch.nonzero().tolist()))
        assert result.gains[i].tolist() == pytest.approx(gains, abs=1e-5)
        assert result.masses[i].tolist() == pytest.approx(masses, abs=1e-5)
        assert float(result.correlation[i]) == pytest.approx(spearmanr(result.gains[i], masses).statistic)
    chunked = patch_effect(
        pair, (partner, patched.images), (attr, attr), patched, images, perturbations_per_eval=2
    )
    torch.testing.assert_close(chunked.gains, result.gains, rtol=1e-4, atol=1e-6)


def test_a_model_that_does_not_care_gives_no_correlation(faces):
    class Blind(nn.Module):
        def forward(self, images):
            return torch.ones(len(images), 2) + 1e-9 * images.mean((1, 2, 3))[:, None]

    pair = PairSimilarity(Blind())
    patched = paste_patches(*faces, n_patches=4, patch_size=4, layout="grid")
    attr = torch.randn(3, 3, 24, 20)
    result = patch_effect(pair, (faces[1], patched.images), (attr, attr), patched, faces[0])
    assert result.correlation.tolist() == [0, 0, 0]


def test_the_model_is_left_as_it_was(pair, images):
    pair.train()
    originals, partner = images
    patched = paste_patches(originals, partner, n_patches=2, patch_size=5)
    patch_effect(pair, (partner, patched.images), images, patched, originals)
    assert all(m.training for m in pair.modules())
    assert all(p.requires_grad for p in pair.parameters())


def test_bad_effects(pair, images):
    originals, partner = images
    patched = paste_patches(originals, partner, n_patches=3, patch_size=5)
    good = {
        "pair": pair,
        "inputs": (partner, patched.images),
        "attributions": images,
        "patched": patched,
        "originals": originals,
    }
    patch_effect(**good)
    single = paste_patches(originals, partner, n_patches=1, patch_size=5)
    for change, error, message in (
        ({"inputs": (partner, originals)}, ValueError, "the patched images .* as image_b"),
        ({"side": "a"}, ValueError, "the patched images .* as image_a"),
        ({"side": "c"}, ValueError, "unknown side 'c'"),
        ({"mass": "absolute"}, ValueError, "unknown mass 'absolute'"),
        ({"originals": originals[:1]}, ValueError, "originals of shape"),
        ({"attributions": images[0]}, TypeError, "as a pair"),
        ({"attributions": (images[0], images[1][..., 1:])}, ValueError, "the shape of image_b"),
        ({"attributions": (images[0], images[1] * float("nan"))}, ValueError, "finite attributions"),
        ({"patched": single, "inputs": (partner, single.images)}, ValueError, "at least 2 patches"),
    ):
        with pytest.raises(error, match=message):
            patch_effect(**{**good, **change})


@pytest.mark.parametrize(
    ("layout", "n", "size"), [("grid", 20, (64, 52)), ("random", 60, (64, 52)), ("grid", 25, (112, 112))]
)
def test_the_region_is_where_patches_can_be(layout, n, size):
    """No smaller and no larger than the places that many draws take."""
    images = torch.zeros(400, 3, *size)
    side = 8 if size[0] == 64 else 16
    patched = paste_patches(
        images, torch.ones(1, 3, *size), n_patches=n, patch_size=side, layout=layout, central=0.75, seed=0
    )
    rows, columns = patched.region
    taken = patched.masks.any(0)
    assert taken[rows, columns].all()
    assert taken.sum() == taken[rows, columns].numel()
