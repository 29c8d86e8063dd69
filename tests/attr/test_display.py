from __future__ import annotations

import pytest

from captum_face import METHODS, PairAttribution, method, on_sides
from captum_face.attr.spec import display_name

# As the titles and abstracts of the papers write them.
PAPERS = {
    "bilrp": "BiLRP",
    "corrrise": "CorrRISE",
    "deep_lift": "DeepLIFT",
    "fame": "FAME",
    "fggb": "FGGB",
    "hirescam": "HiResCAM",
    "layer_gradcam": "Grad-CAM",
    "lrp": "LRP",
    "minplus": "MinPlus",
    "rise": "RISE",
    "xface": "xFace",
    "xssab": "xSSAB",
}


def test_methods_have_the_names_of_their_papers():
    assert {name: METHODS[name].display for name in PAPERS} == PAPERS
    shown = [cls.display for cls in METHODS.values()]
    assert len(set(shown)) == len(shown)
    assert not any("_" in name or name != name.strip() or name[:1].isspace() for name in shown)


def test_options_with_commas_are_kept_whole():
    assert display_name("minplus:sizes=[3,5],smooth=2") == "MinPlus (sizes=[3,5], smooth=2)"
    assert display_name("nobody.knows.MyMethod:k=1") == "My Method (k=1)"
    assert display_name("a text: with a colon, and v1.2") == "a text: with a colon, and v1.2"


@pytest.mark.parametrize(
    ("display", "error", "message"), [("", ValueError, "not empty"), (3, TypeError, "display as a text")]
)
def test_a_method_of_ones_own_sets_its_name(display, error, message):
    def define(**options):
        @method("my_bands", family="occlusion", source="here", passes="none", **options)
        class Bands(PairAttribution):
            @on_sides
            def attribute(self, sides):
                return sides.explain(lambda side: side.image[:, 0])

        METHODS.unregister("my_bands")
        return Bands

    assert define().display == "My bands"
    assert define(display="BandRISE").display == "BandRISE"
    with pytest.raises(error, match=message):
        define(display=display)
