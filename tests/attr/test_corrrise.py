from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from captum_face import CorrRISE, PairSimilarity
from captum_face.attr.corrrise import correlation_map, relative_error
from captum_face.engines.masks import random_patches


def looped_map(scores, masks, correlate):
    """scipy's correlation, one pixel at a time; 0 where it is not defined."""
    columns = masks.double().flatten(1).T.numpy()
    values = [correlate(c, scores).statistic if c.std() > 0 else 0.0 for c in columns]
    return torch.tensor(np.array(values)).reshape(masks.shape[1:])


@pytest.fixture
def masks():
    return random_patches(40, (18, 14), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(("name", "correlate"), [("pearson", stats.pearsonr), ("spearman", stats.spearmanr)])
@pytest.mark.parametrize("soft", [False, True])
def test_equals_a_looped_correlation(pair, images, masks, name, correlate, soft):
    # Double: in single precision scores that are almost equal change ranks between batch and item.
    pair.double()
    images = tuple(image.double() for image in images)
    if soft:
        masks = (masks * torch.rand(40, 1, 1, generator=torch.Generator().manual_seed(1))).round(decimals=1)
    attr_a, attr_b = CorrRISE(pair).attribute(images, masks=masks, correlation=name)
    a, b = images
    with torch.no_grad():
        for i in range(3):
            scores_a = [pair(a[i, None] * m, b[i, None]).item() for m in masks]
            scores_b = [pair(a[i, None], b[i, None] * m).item() for m in masks]
            for attr, scores in ((attr_a, scores_a), (attr_b, scores_b)):
                expected = looped_map(scores, masks, correlate)
                for channel in range(3):
                    torch.testing.assert_close(attr[i, channel], expected, rtol=1e-9, atol=1e-9)


def test_positive_where_hiding_lowers_the_score(masks):
    """A planted model that looks at one spot: for the partner's likeness there, or against it."""
    a = torch.ones(1, 3, 18, 14)
    for sign in (1, -1):
        attr, _ = CorrRISE(lambda x, y, s=sign: s * x[:, 0, 9, 7]).attribute((a, a), masks=masks)
        assert attr[0, 0, 9, 7].item() == pytest.approx(sign, abs=1e-6)
        assert (sign * attr).max() == sign * attr[0, 0, 9, 7]


def test_constant_scores_and_never_hidden_pixels_are_zero(images):
    masks = torch.ones(10, 18, 14, dtype=torch.bool)
    masks[::2, :5, :5] = False
    attr, _ = CorrRISE(lambda a, b: b.sum((1, 2, 3)) + a[:, 0, 0, 0]).attribute(images, masks=masks)
    assert attr[:, :, 5:, :].eq(0).all()
    assert attr[:, :, 0, 0].gt(0.99).all()
    constant = CorrRISE(lambda a, b: torch.full((len(a),), 0.3) + 1e-9 * a.mean((1, 2, 3)))
    assert all(attr.eq(0).all() for attr in constant.attribute(images, masks=masks))
    soft = torch.full((10, 18, 14), 0.3)
    soft[::2, 0, 0] = 0.7
    attr, _ = CorrRISE(lambda a, b: a.mean((1, 2, 3))).attribute(images, masks=soft)
    assert attr[0, 0].abs().gt(1e-6).sum() == 1


def test_correlation_is_stable_far_from_zero(masks):
    """Scores near 1000 that vary by 0.1: single precision sums would lose them."""
    generator = torch.Generator().manual_seed(0)
    scores = 1000 + 0.1 * torch.rand(2, 40, generator=generator, dtype=torch.float64)
    expected = torch.stack([looped_map(row.numpy(), masks, stats.pearsonr) for row in scores])
    torch.testing.assert_close(correlation_map(scores, masks), expected, rtol=1e-7, atol=1e-9)


def test_black_box_equals_pair_wrapper(pair, images):
    def remote_service(a, b):
        with torch.no_grad():
            return pair(a, b).numpy()

    inside = CorrRISE(pair).attribute(images, n_masks=30, seed=1)
    outside = CorrRISE(remote_service).attribute(images, n_masks=30, seed=1)
    for got, want in zip(outside, inside, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4)


def test_swapping_the_pair_swaps_the_maps(pair, images):
    a, b = images
    forth = CorrRISE(pair).attribute((a, b), n_masks=20, seed=4)
    back = CorrRISE(pair).attribute((b, a), n_masks=20, seed=4)
    torch.testing.assert_close(forth[0], back[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(forth[1], back[0], rtol=1e-4, atol=1e-5)


def test_baselines_fill_what_is_hidden(pair, images, masks):
    a, b = images
    fill_a, fill_b = torch.rand_like(a), torch.rand(3, 18, 14)
    filled = []

    def spy(x, y):
        filled.append((x, y))
        return pair(x, y)

    with torch.no_grad():
        CorrRISE(spy).attribute((a, b), masks=masks, baselines=(fill_a, fill_b), perturbations_per_eval=32)
    first = torch.cat([x for x, _ in filled[:6]])  # three pairs of 32 + 8 masks
    assert torch.equal(first[40:80], torch.where(masks[:, None], a[1], fill_a[1]))
    last = torch.cat([y for _, y in filled[6:]])
    assert torch.equal(last[80:], torch.where(masks[:, None], b[2], fill_b))


def test_seed_generator_and_global_state(pair, images):
    method = CorrRISE(pair)

    def run(**options):
        return method.attribute(images, n_masks=12, **options)[0]

    assert torch.equal(run(seed=3), run(generator=torch.Generator().manual_seed(3)))
    state = torch.get_rng_state()
    run(seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(0)
    first = run()
    torch.manual_seed(0)
    assert torch.equal(first, run())
    assert not torch.equal(first, run())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"correlation": "pearsn"}, ValueError, "did you mean 'pearson'"),
        ({"sampling": "sobol"}, ValueError, "unknown sampling 'sobol'"),
        ({"n_masks": 1}, ValueError, "n_masks of at least 2"),
        ({"n_masks": 0}, ValueError, "n_masks"),
        ({"patch_size": 15}, ValueError, "inside the image of 18x14"),
        ({"masks": torch.ones(5, 8, 8)}, ValueError, "size of the images"),
        ({"perturbations_per_eval": 0}, ValueError, "perturbations_per_eval"),
        ({"seed": 1, "generator": torch.Generator()}, ValueError, "got both"),
        ({"seed": 1.5}, TypeError, "seed as an integer"),
        ({"generator": 4}, TypeError, "torch.Generator"),
        ({"baselines": "black"}, ValueError, "unknown baseline .black.: expected one of partner"),
        ({"baselines": 255}, ValueError, r"in \[0, 1\]"),
        ({"baselines": torch.zeros(2, 3, 18, 14)}, ValueError, "fit images"),
        ({"baselines": torch.zeros(1, 3, 9, 9)}, ValueError, "fit images"),
        ({"baselines": (0, 0, 0)}, ValueError, "two sides"),
    ],
)
def test_bad_options_before_any_score(images, options, error, message):
    def never(a, b):
        raise AssertionError("scored before the options were checked")

    with pytest.raises(error, match=message):
        CorrRISE(never).attribute(images, **options)


@pytest.mark.real
def test_real_pairs_equal_a_looped_correlation(real_pair, real_images):
    masks = random_patches(24, (112, 112), generator=torch.Generator().manual_seed(0))
    attributions = CorrRISE(real_pair).attribute(real_images, masks=masks)
    a, b = (image[1:] for image in real_images)
    with torch.no_grad():
        scores = torch.stack([real_pair(a * m, b)[0] for m in masks]).double().numpy()
    centred = masks.double() - masks.double().mean(0)
    deviation = torch.from_numpy(scores - scores.mean())
    expected = torch.einsum("n,nhw->hw", deviation, centred) / (deviation.norm() * centred.norm(dim=0))
    torch.testing.assert_close(attributions[0][1, 0].double(), expected.nan_to_num(0), rtol=1e-3, atol=1e-3)


def test_stays_in_the_dtype_of_the_images(net, images):
    pair = PairSimilarity(net.double())
    attr, _ = CorrRISE(pair).attribute(tuple(image.double() for image in images), n_masks=8)
    assert attr.dtype == torch.float64


def test_a_fill_for_each_partner_of_a_single_image(pair, images, masks):
    """The partner's own pixels as fill, one probe against a gallery."""
    a, b = images[0][:1], images[1]
    attr_a, attr_b = CorrRISE(pair).attribute((a, b), masks=masks, baselines=(b, a))
    for i in range(3):
        one_a, one_b = CorrRISE(pair).attribute((a, b[i, None]), masks=masks, baselines=(b[i, None], a))
        torch.testing.assert_close(attr_a[i], one_a[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(attr_b[i], one_b[0], rtol=1e-4, atol=1e-5)


def test_a_callable_with_a_training_mode_module_behind_it(images):
    from tests.conftest import small_net

    net = small_net()
    before = net.bn1.running_mean.clone()
    CorrRISE(PairSimilarity(net).forward).attribute(images, n_masks=4)
    assert torch.equal(net.bn1.running_mean, before)
    assert net.training


def test_soft_masks_that_hardly_vary_still_count(images):
    soft = torch.full((10, 18, 14), 0.5)
    soft[::2, 3, 3] += 1e-3
    attr, _ = CorrRISE(lambda a, b: a[:, 0, 3, 3]).attribute(images, masks=soft)
    assert attr[0, 0, 3, 3].item() == pytest.approx(1, abs=1e-3)


def looped_error(scores, masks):
    """The standard error (1 - r^2) / sqrt(n - 1) relative to r, root mean squares, from scipy's r."""
    r = looped_map(scores, masks, stats.pearsonr)
    return float(((1 - r**2) ** 2).mean().sqrt() / (r**2).mean().sqrt()) / (len(masks) - 1) ** 0.5


@pytest.mark.parametrize("single", [None, 0, 1])
def test_stops_when_the_error_is_low_enough(single):
    """Each pair at its own number of masks, as alone, and not a look later than the error says."""
    generator = torch.Generator().manual_seed(7)
    a, b = torch.rand(2, 3, 3, 18, 14, generator=generator, dtype=torch.float64)
    # Partners that ask for one spot, for the upper rows and for all of the image.
    b[0, :, :9], b[1, :, 9:] = 0, 0
    pair = PairSimilarity(
        lambda x: torch.stack([x[:, 0, 12, 7], x[:, :, :4].sum((1, 2, 3)), x.mean((1, 2, 3))], 1), score="dot"
    )
    a, b = (image[:1] if i == single else image for i, image in enumerate((a, b)))
    masks = random_patches(1200, (18, 14), generator=generator)
    target = 0.2
    found = CorrRISE(pair).attribute_detailed((a, b), masks=masks, target_error=target)
    maps, used = found.attributions, found.details["n_masks"]
    assert used.shape == (3, 2)
    assert used.dtype == torch.int64
    assert (used % 50 == 0).all()
    assert used.min() < 0.8 * used.max() < 900
    with torch.no_grad():
        for i in range(3):
            left, right = a[i % len(a), None], b[i % len(b), None]
            for side, masked in ((0, (left * masks[:, None], right)), (1, (left, right * masks[:, None]))):
                scores, n = pair(*masked), int(used[i, side])
                assert looped_error(scores[:n], masks[:n]) <= target
                assert n == 100 or looped_error(scores[: n - 50], masks[: n - 50]) > 0.96 * target
                expected = looped_map(scores[:n], masks[:n], stats.pearsonr)
                torch.testing.assert_close(maps[side][i, 0], expected, rtol=1e-9, atol=1e-9)


def test_that_never_stops_is_the_plain_result(pair, images):
    plain = CorrRISE(pair).attribute(images, n_masks=170, seed=2)
    options = {"n_masks": 170, "seed": 2, "target_error": 1e-6}
    found = CorrRISE(pair).attribute_detailed(images, **options)
    maps = found.attributions
    assert found.details["n_masks"].eq(170).all()
    for got, want in zip(maps, plain, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    again = CorrRISE(pair).attribute(images, **options)
    assert all(torch.equal(x, y) for x, y in zip(again, maps, strict=True))
    assert CorrRISE(pair).attribute_detailed(images, n_masks=60, seed=2).details["n_masks"].eq(60).all()


def test_stopping_saves_passes(images):
    seen = []

    def model(x):
        seen.append(len(x))
        return x.mean((2, 3))

    pair = PairSimilarity(model)
    inputs = (images[0][:1], images[1])
    found = CorrRISE(pair).attribute_detailed(inputs, n_masks=5000, target_error=0.5, seed=0)
    used = found.details["n_masks"]
    assert used.max() < 1000
    assert sum(seen) == 3 + used[:, 0].max() + 1 + used[:, 1].sum()


@pytest.mark.parametrize("target", [0, -0.1, float("nan")])
def test_bad_target_errors(pair, images, target):
    with pytest.raises(ValueError, match="expected target_error above 0"):
        CorrRISE(pair).attribute(images, target_error=target)


def test_the_error_is_how_far_seeds_lie_from_the_truth(pair, images):
    """40 runs of 100 masks against the map of 8000."""
    inputs = tuple(image[:1] for image in images)
    truth = CorrRISE(pair).attribute(inputs, n_masks=8000, seed=99)[0][0, 0]
    maps = torch.stack([CorrRISE(pair).attribute(inputs, n_masks=100, seed=i)[0][0, 0] for i in range(40)])
    said = relative_error(maps.double(), 100)
    distance = (maps - truth).square().mean((1, 2)).sqrt() / maps.square().mean((1, 2)).sqrt()
    assert said.mean().item() == pytest.approx(distance.mean().item(), rel=0.15)


def test_a_map_of_zeros_is_never_sure(images):
    constant = CorrRISE(lambda a, b: torch.ones(len(a)))
    found = constant.attribute_detailed(images, n_masks=130, target_error=0.9)
    assert found.details["n_masks"].eq(130).all()
    assert all(attr.eq(0).all() for attr in found.attributions)


def test_stratified_masks_give_the_same_map_with_less_noise(pair, images):
    inputs = tuple(image[:1] for image in images)

    def runs(seeds, **options):
        options["perturbations_per_eval"] = 250
        return torch.stack([CorrRISE(pair).attribute(inputs, seed=i, **options)[0][0, 0] for i in seeds])

    truth = runs([99], n_masks=6000)[0]
    error = {
        sampling: (runs(range(12), n_masks=250, sampling=sampling) - truth).square().mean().sqrt()
        for sampling in ("plain", "stratified")
    }
    assert error["stratified"] < 0.9 * error["plain"]
    stratified = runs([99], n_masks=6000, sampling="stratified")[0]
    assert (stratified - truth).square().mean().sqrt() < 0.02
