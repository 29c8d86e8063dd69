from __future__ import annotations

import pytest
import torch

from captum_face.attr.xface import XFace
from captum_face.engines.masks import sliding_windows
from captum_face.maps.signed import smooth


def squares(height, width, side, stride):
    """Corners of all squares, the last of each row and column flush with the border."""
    rows, columns = ([*range(0, length - side, stride), length - side] for length in (height, width))
    return [(y, x) for y in rows for x in columns]


def blacken(image, corner, side):
    y, x = corner
    image = image.clone()
    image[..., y : y + side, x : x + side] = 0
    return image


def looped_map(score, a, b, variant, sizes, stride, sigma):
    """xFace of image a, one pair of occluded images at a time."""
    height, width = a.shape[-2:]
    maps = []
    for side in sizes:
        corners = squares(height, width, side, stride)
        total, count = torch.zeros(2, height, width, dtype=a.dtype)
        for corner in corners:
            hidden = blacken(a, corner, side)
            if variant == "cross":
                after = sum(score(hidden, blacken(b, other, side)) for other in corners) / len(corners)
            elif variant == "single":
                after = score(hidden, b)
            else:
                after = score(hidden, blacken(b, corner, side))
            y, x = corner
            total[y : y + side, x : x + side] += (score(a, b) - after) / side**2
            count[y : y + side, x : x + side] += 1
        maps.append(smooth((total / count.clamp(min=1))[None], sigma)[0])
    return sum(maps) / len(maps)


@pytest.mark.parametrize("variant", ["cross", "single", "paired"])
@pytest.mark.parametrize("black_box", [False, True])
def test_equals_a_loop(pair, images, variant, black_box):
    pair.double()
    a, b = (image[:2].double() for image in images)
    options = {"sizes": (6, 9), "stride": 5, "sigma": 1.0}

    def score(x, y):
        with torch.no_grad():
            return pair(x, y)[0]

    method = XFace((lambda x, y: pair(x, y).detach().numpy()) if black_box else pair)
    attr_a, attr_b = method.attribute((a, b), variant=variant, **options)
    for i in range(2):
        x, y = a[i, None], b[i, None]
        expected = (
            looped_map(score, x, y, variant, **options),
            looped_map(lambda p, q: score(q, p), y, x, variant, **options),
        )
        for attr, want in zip((attr_a, attr_b), expected, strict=True):
            for channel in range(3):
                torch.testing.assert_close(attr[i, channel], want, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("variant", ["cross", "single"])
def test_positive_where_hiding_lowers_the_score(variant):
    a = torch.ones(1, 3, 20, 20)
    for sign in (1, -1):
        method = XFace(lambda x, y, s=sign: s * x[:, 0, 12, 5])
        attr, untouched = method.attribute((a, a), variant=variant, sizes=(5,), stride=5, sigma=0)
        inside = torch.zeros(20, 20, dtype=torch.bool)
        inside[10:15, 5:10] = True
        torch.testing.assert_close(attr[0, 0][inside], torch.full((25,), sign / 25))
        assert attr[0, 0][~inside].abs().max() < 1e-6
        # Under "cross" hiding the second image changes nothing, but the first is always partly hidden.
        assert untouched.max() - untouched.min() < 1e-6


def test_defaults_are_the_papers_squares_on_a_crop_of_112():
    scored = []

    def count(x, y):
        scored.append(len(x))
        return x.mean((1, 2, 3))

    images = torch.rand(1, 3, 112, 112), torch.rand(1, 3, 112, 112)
    XFace(count).attribute(images, variant="single", perturbations_per_eval=500)
    expected = sum(len(squares(112, 112, side, 5)) for side in (7, 14, 28))
    assert expected == 22**2 + 21**2 + 18**2
    assert sum(scored) == 2 * (expected + 1)


def test_the_blur_grows_with_the_image(pair, images):
    inputs = tuple(image[:1].repeat(1, 1, 4, 8) for image in images)  # 72 x 112
    options = {"sizes": (20,), "stride": 20, "variant": "single"}
    default, _ = XFace(pair).attribute(inputs, **options)
    by_hand, _ = XFace(pair).attribute(inputs, sigma=2 / 112 * 72, **options)
    assert torch.equal(default, by_hand)
    assert not torch.equal(default, XFace(pair).attribute(inputs, sigma=0, **options)[0])


def test_each_image_is_embedded_once(pair, images):
    seen = []
    pair.embedding_model.register_forward_hook(lambda m, args, out: seen.append(len(args[0])))
    XFace(pair).attribute((images[0], images[1][:1]), sizes=(6,), stride=6)
    assert sum(seen) == 4 * (1 + len(squares(18, 14, 6, 6)))


def test_windows_hide_every_pixel():
    masks = sliding_windows((18, 14), (6, 5), (5, 4))
    assert (~masks).any(0).all()
    assert ((~masks).flatten(1).sum(1) == 30).all()
    assert len(masks) == 4 * 4


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"variant": "probe"}, ValueError, "unknown variant 'probe'"),
        ({"variant": "singel"}, ValueError, "did you mean 'single'"),
        ({"sizes": ()}, ValueError, "at least one size"),
        ({"sizes": (15,), "stride": 2}, ValueError, "inside the image of 18x14"),
        ({"sizes": (2,), "stride": 3}, ValueError, "strides of at most"),
        ({"sizes": (2.5,), "stride": 1}, ValueError, "integer"),
        ({"stride": 0}, ValueError, "stride"),
        ({"sigma": -1.0}, ValueError, "sigma"),
        ({"sigma": "2"}, TypeError, "sigma, .*number"),
        ({"sizes": 7}, TypeError, "list of sides in pixels, got 7"),
        ({"sizes": "7"}, TypeError, "list of sides in pixels"),
        ({"perturbations_per_eval": 0}, ValueError, "perturbations_per_eval"),
    ],
)
def test_bad_options_before_any_score(images, options, error, message):
    def never(a, b):
        raise AssertionError("scored before the options were checked")

    with pytest.raises(error, match=message):
        XFace(never).attribute(images, **options)
