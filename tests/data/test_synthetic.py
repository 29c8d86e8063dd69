from __future__ import annotations

import pytest
import torch

from captum_face.data import synthetic

TEMPLATE = torch.tensor(
    [
        (38.2946, 51.6963),
        (73.5318, 51.5014),
        (56.0252, 71.7366),
        (41.5493, 92.3655),
        (70.7299, 92.2041),
    ]
)


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = synthetic.pair(seed=4, changed=("nose",), strength=1)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    second = synthetic.pair(seed=4, changed=("nose",), strength=1)
    other = synthetic.pair(seed=5, changed=("nose",), strength=1)
    for name in ("image_a", "image_b", "mask_a", "mask_b"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    assert (first.image_a - other.image_a).abs().mean() > 0.05
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(before, state)


def test_a_face_does_not_depend_on_its_batch():
    people, photos = synthetic.sample_identities(11, 0), synthetic.sample_nuisance(11, 0)
    images, parts = synthetic.render(people, photos, return_parts=True)
    single, single_parts = synthetic.render(people[9], photos[9], return_parts=True)
    torch.testing.assert_close(images[9:10], single, atol=1e-5, rtol=0)
    assert (parts[9:10] != single_parts).float().mean() < 1e-4


def test_images_are_float_rgb_in_the_unit_range_even_under_strong_nuisance():
    images = synthetic.render(synthetic.sample_identities(8, 1), synthetic.sample_nuisance(8, 1, strength=2))
    assert images.shape == (8, 3, 112, 112)
    assert images.dtype == torch.float32
    assert images.min() >= 0
    assert images.max() <= 1
    assert (images.flatten(1).std(dim=1) > 0.05).all()


def test_people_and_photos_of_one_seed_are_independent():
    people, photos = synthetic.sample_identities(400, 7), synthetic.sample_nuisance(400, 7)
    a, b = (torch.cat(list(rows.vectors.values()), dim=1).T for rows in (people, photos))
    together = torch.corrcoef(torch.cat([a, b]))[: len(a), len(a) :].nan_to_num()
    assert together.abs().max() < 0.25  # 5 standard errors


def test_nuisance_changes_the_photo_and_no_mask():
    two = synthetic.pair(seed=1, strength=1)
    assert two.same
    assert two.changed == ()
    assert (two.image_a - two.image_b).abs().mean() > 0.02
    assert not two.mask_a.any()
    assert not two.mask_b.any()


@pytest.mark.parametrize("part", synthetic.PARTS)
def test_every_part_can_be_exchanged_alone_and_shows(part):
    for seed in range(3):
        two = synthetic.pair(seed=seed, changed=(part,))
        assert two.mask_a.shape == two.mask_b.shape == (1, 112, 112)
        for mask in (two.mask_a, two.mask_b):
            assert mask.sum() >= 12
            assert mask.float().mean() < 0.9
        unchanged = synthetic.pair(seed=seed)
        assert torch.equal(two.image_a, unchanged.image_a)
        # The same circumstances and noise: outside of the mask not even the noise differs.
        outside = ~two.mask_b[:, None].expand(1, 3, 112, 112)
        gap = (two.image_b - unchanged.image_b).abs()[outside]
        assert gap.max() <= synthetic.CHANGE_THRESHOLD + 1e-6


@pytest.mark.parametrize(("part", "rows"), [("brows", (30, 52)), ("eyes", (38, 63)), ("nose", (45, 86))])
def test_an_exchange_stays_at_its_place(part, rows):
    people, rest = synthetic.sample_identities(12, 2), synthetic.sample_nuisance(1, 0, strength=0)
    strangers = synthetic.sample_identities(12, 3)
    before = synthetic.render(people, rest)
    after = synthetic.render(people.swap(strangers, (part,)), rest)
    changed = (before != after).any(dim=1).any(dim=2).any(dim=0).nonzero()
    # Lighting takes differences of heights, one row further.
    assert rows[0] - 2 <= changed.min()
    assert changed.max() <= rows[1] + 2


def test_landmarks_lie_on_the_arcface_template():
    rest = synthetic.sample_nuisance(1, 0, strength=0)
    points = synthetic.landmarks(synthetic.sample_identities(2000, 0), rest)
    assert points.shape == (2000, 5, 2)
    torch.testing.assert_close(points.mean(dim=0), TEMPLATE, atol=0.3, rtol=0)
    assert (points - TEMPLATE).norm(dim=2).max() < 2.6


def test_landmarks_follow_the_pose():
    people, photos = synthetic.sample_identities(16, 5), synthetic.sample_nuisance(16, 5)
    # Gaze and brightness at rest: then pupils are at the eyes, and black.
    rest = synthetic.sample_nuisance(16, 5, strength=0)
    for group in ("light", "expression", "noise"):
        photos.vectors[group].copy_(rest.vectors[group])
    images = synthetic.render(people, photos).mean(dim=1)
    eyes = synthetic.landmarks(people, photos)[:, :2].round().long()
    frontal = synthetic.landmarks(people, rest)[:, :2]
    assert (eyes - frontal).norm(dim=2).max() > 3
    dark = [[images[i, y - 2 : y + 3, x - 1 : x + 2].min() for x, y in eyes[i].tolist()] for i in range(16)]
    assert torch.tensor(dark).max() < 0.25


def test_part_masks_are_disjoint_and_where_the_landmarks_are():
    people, photos = synthetic.sample_identities(10, 6), synthetic.sample_nuisance(10, 6)
    _, masks = synthetic.render(people, photos, return_parts=True)
    assert masks.shape == (10, len(synthetic.PARTS), 112, 112)
    assert masks.dtype == torch.bool
    assert masks.sum(dim=1).max() == 1
    grid = torch.stack(torch.meshgrid(torch.arange(112), torch.arange(112), indexing="xy"), dim=2)
    points = synthetic.landmarks(people, photos)
    for i in range(10):
        mouth = masks[i, synthetic.PARTS.index("mouth")]
        centre = grid[mouth].float().mean(dim=0)
        assert (centre - points[i, 3:].mean(dim=0)).norm() < 7
        for part in ("skin", "jaw", "nose", "eyes", "brows", "hair"):
            assert masks[i, synthetic.PARTS.index(part)].sum() > 20, part


def test_different_people_differ_nearly_everywhere_but_in_the_background():
    two = synthetic.pair(seed=2, same=False)
    assert not two.same
    assert two.changed == ()
    assert two.mask_b.float().mean() > 0.3
    assert two.mask_b.float().mean() < 1


def test_swap_takes_the_named_parts_only():
    a, b = synthetic.sample_identities(3, 0), synthetic.sample_identities(1, 1)
    mixed = a.swap(b, ("eyes", "brows"))
    for part in synthetic.PARTS:
        source = b if part in ("eyes", "brows") else a
        assert torch.equal(mixed.vectors[part], source.vectors[part].expand_as(a.vectors[part]))
    assert len(a[-1]) == 1
    assert torch.equal(a[-1].vectors["hair"], a.vectors["hair"][2:])
    with pytest.raises(IndexError):
        a[3]


def test_verification_pairs_take_turns():
    a, b, same = synthetic.pairs(5, seed=3, strength=0)
    assert same.tolist() == [True, False, True, False, True]
    # At strength 0 all photos are taken alike, so genuine pairs are identical.
    assert torch.equal(a[same], b[same])
    assert ((a - b).abs().flatten(1).mean(dim=1)[~same] > 0.01).all()


def test_bad_requests_are_explained():
    with pytest.raises(ValueError, match=r"unknown face part 'mouht'.*did you mean 'mouth'"):
        synthetic.pair(changed=("mouht",))
    with pytest.raises(ValueError, match=r"expected changed=\(\) with same=False"):
        synthetic.pair(same=False, changed=("nose",))
    people = synthetic.sample_identities(2, 0)
    with pytest.raises(ValueError, match="unknown face part"):
        people.swap(people, ("chin",))
    with pytest.raises(ValueError, match="got 2 identities and 3 photos"):
        synthetic.render(people, synthetic.sample_nuisance(3, 0))
