from __future__ import annotations

import json
import pickle
import shutil

import numpy as np
import pytest
import torch

from captum_face import Explanation, Identification, PairSimilarity, explain, identify
from captum_face.data import synthetic
from captum_face.data.alignment import FaceCheck
from captum_face.pair.scores import Threshold
from tests.conftest import small_net


@pytest.fixture
def pair():
    return PairSimilarity(small_net(), preprocess="arcface", threshold=Threshold(0.3, "my own study"))


TWO = synthetic.pair(seed=1)
FACES = torch.stack([TWO.image_a, TWO.image_b])
FAILED = FaceCheck(0, "nothing was checked")


def faces(seed=0, size=(20, 14)):
    pixels = torch.randint(0, 256, (2, 1, 3, *size), generator=torch.Generator().manual_seed(seed))
    return pixels.float() / 255


@pytest.fixture
def saved(pair, tmp_path):
    explanation = explain(pair, *faces(), "corrrise:n_masks=6", names=("Ann Müller.png", "bob.png"))
    return explanation, explanation.save(tmp_path / "out", sigma=1)


@pytest.mark.parametrize(
    ("images", "format"),
    [
        (faces(), "png"),  # as photos are read
        (faces(), "pdf"),
        (faces(), "svg"),
        (faces() * 0.99, "png"),  # resized, or of 16 bits
        (faces().double(), "png"),
        (faces().half(), "png"),
        (FACES, "png"),  # with shares of the regions
        (faces(size=(112, 112)), "png"),  # no faces
        (faces()[:, :, :1], "png"),
    ],
    ids=["bytes", "pdf", "svg", "float32", "float64", "float16", "regions", "check", "grey"],
)
def test_what_was_saved_comes_back(tmp_path, images, format):
    model = small_net().to(images[0].dtype)
    wrapped = PairSimilarity(
        lambda x: model(x.expand(-1, 3, -1, -1)), threshold=Threshold(0.3, "my own study")
    )
    explanation = explain(wrapped, *images, "random")
    paths = explanation.save(tmp_path / "one", format=format, percentile=90)
    found = Explanation.load(tmp_path / "one")
    assert found.decision == explanation.decision
    assert (found.regions is not None) == all(check.passed for check in found.checks or [FAILED])
    assert found.threshold == 0.3
    assert found.threshold.source == "my own study"
    for name in (
        "method",
        "score",
        "names",
        "settings",
        "regions",
        "checks",
        "verdict",
        "remarks",
        "versions",
    ):
        assert getattr(found, name) == getattr(explanation, name), name
    for want, got in zip(explanation.images, found.images, strict=True):
        assert torch.equal(want, got)
        assert want.dtype == got.dtype
    for want, got in zip(explanation.attributions, found.attributions, strict=True):
        assert torch.equal(want.float(), got)
    again = found.save(tmp_path / "two", format=format, percentile=90)
    for kind, path in paths.items():
        assert path.name == again[kind].name
        assert path.read_bytes() == again[kind].read_bytes(), kind


def test_photos_are_stored_in_bytes(saved):
    with np.load(saved[1]["maps"]) as arrays:
        assert arrays["image_a"].dtype == np.uint8
        np.testing.assert_array_equal(arrays["image_a"], (faces()[0, 0] * 255).round().numpy())


def test_no_threshold_and_each_file_leads_to_the_result(tmp_path):
    explanation = explain(PairSimilarity(small_net()), *faces(), "random")
    paths = explanation.save(tmp_path)
    for path in paths.values():
        found = Explanation.load(path)
        assert found.threshold is None
        assert found.decision is None
    paths["figure"].unlink()  # not needed, also by its name
    assert Explanation.load(paths["figure"]).score == explanation.score


def test_pairs_in_one_folder_have_files_of_their_own(pair, tmp_path):
    """Equal names of other photos, names that differ in case or in what becomes an underscore, none."""
    one, other = faces(1), faces(2)
    explanations = [
        explain(pair, *images, "random", names=names)
        for images, names in [
            (one, ("a.png", "b.png")), (other, ("a.png", "b.png")), (one[[1, 0]], ("a.png", "b.png")),
            (one, ("A.png", "b.png")), (one, ("a.jpg", "b.png")), (one, ("x?.png", "b")),
            (one, ("x*.png", "b")),
            (one, ("a__b", "c")), (one, ("a", "b__c")), (one, ("", "..")), (one, None), (other, None),
            (one, ("y" * 300, "é" * 300)),
        ]
    ]  # fmt: skip
    labels = [explanation.pair_label for explanation in explanations]
    assert len({label.casefold() for label in labels}) == len(labels)
    assert all(len(label.encode()) <= 80 and not set(label) & set('/\\:*?"<>| ') for label in labels)
    assert all(label[0] not in ".-" for label in labels)
    assert labels[0].startswith("a__b-")
    assert explain(pair, *one, "random", names=("a.png", "b.png")).pair_label == labels[0]
    for explanation in explanations[:2]:
        explanation.save(tmp_path)
    with pytest.raises(
        ValueError, match="expected one explanation in .*, got 2; give one of the files: a__b-"
    ):
        Explanation.load(tmp_path)


def test_names_that_are_no_text(pair, tmp_path):
    """Linux hands on file names in other encodings."""
    explanation = explain(pair, *faces(), "random", names=("a\udcff.png", "b.png"))
    summary = explanation.save(tmp_path)["summary"]
    assert json.loads(summary.read_text(encoding="utf-8"))["images"][0] == "a\udcff.png"
    assert Explanation.load(summary).names == explanation.names


def change(path, **entries):
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | entries), encoding="utf-8")


def change_arrays(path, drop=(), **entries):
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files if name not in drop} | entries
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)


def without_kind(paths):
    summary = json.loads(paths["summary"].read_text(encoding="utf-8"))
    del summary["kind"]
    paths["summary"].write_text(json.dumps(summary), encoding="utf-8")
    change_arrays(paths["maps"], drop=("image_a", "image_b"))


def cut(path, share=0.6):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda p: cut(p["maps"]), ValueError, "maps as a .npz.*damaged or another file"),
        (lambda p: flip(p["maps"]), ValueError, "damaged"),
        (lambda p: p["maps"].write_bytes(b""), ValueError, "damaged"),
        (lambda p: p["maps"].write_bytes(pickle.dumps({"a": 1})), ValueError, "damaged or another"),
        (lambda p: np.save(p["maps"].open("wb"), np.zeros(3)), ValueError, "damaged or another"),
        (lambda p: change_arrays(p["maps"], attr_a=np.array([None])), ValueError, "damaged or another"),
        (lambda p: change_arrays(p["maps"], drop=["attr_b"]), ValueError, "no array attr_b"),
        (
            lambda p: change_arrays(p["maps"], attr_b=np.zeros((3, 4, 4), "f4")),
            ValueError,
            "different shapes",
        ),
        (lambda p: change_arrays(p["maps"], attr_b=np.full((3, 20, 14), np.nan)), ValueError, "finite"),
        (lambda p: change_arrays(p["maps"], image_a=np.zeros(4, "f4")), ValueError, "images that are none"),
        (lambda p: change_arrays(p["maps"], score=np.array(2.0)), ValueError, "two scores"),
        (lambda p: p["maps"].unlink(), FileNotFoundError, "maps .* beside the summary"),
        (lambda p: cut(p["summary"]), ValueError, "summary in JSON"),
        (lambda p: p["summary"].write_bytes(b"\xff\xfe\x00"), ValueError, "summary in JSON"),
        (
            lambda p: p["summary"].write_text("[1, 2]"),
            ValueError,
            "an explanation.*got another file",
        ),
        (lambda p: p["summary"].unlink(), FileNotFoundError, "summary .* beside the other files"),
        (lambda p: change(p["summary"], score="high"), ValueError, "got 'high' as score"),
        (lambda p: change(p["summary"], images=["a"]), ValueError, "names of the two images"),
        (lambda p: change(p["summary"], regions={"image_a": {}}), ValueError, "shares of the regions"),
        (lambda p: change(p["summary"], kind="identification"), ValueError, "got one of identification"),
        (without_kind, ValueError, "did not save them; explain anew"),
    ],
)
def test_damaged_and_foreign_files(saved, damage, error, message):
    damage(saved[1])
    with pytest.raises(error, match=message):
        Explanation.load(saved[1]["maps"])


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("nothing", FileNotFoundError, "found nothing at"),
        ("empty", FileNotFoundError, "expected a folder with an explanation"),
        ("foreign.txt", ValueError, "expected a folder or a file"),
        ("photo.png", FileNotFoundError, "expected the summary .*photo.json beside"),
    ],
)
def test_other_places(tmp_path, name, error, message):
    (tmp_path / "empty").mkdir()
    for file in ("foreign.txt", "photo.png", "empty/settings.json"):
        (tmp_path / file).write_text("{}")
    with pytest.raises(error, match=message):
        Explanation.load(tmp_path / name)


def test_the_format_is_looked_at_first(saved, tmp_path):
    with pytest.raises(ValueError, match="unknown format of a figure 'jpg'"):
        saved[0].save(tmp_path / "new", format="jpg")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("both", [False, True])
def test_a_search_comes_back(pair, tmp_path, both):
    gallery = torch.cat([*faces(1), *faces(2)])
    found = identify(pair, faces()[0], gallery, "corrrise:n_masks=6", top_k=2, both=both)
    paths = found.save(tmp_path / "one", sigma=1, format="svg")
    back = Identification.load(tmp_path / "one")
    for name in ("method", "name", "ranking", "settings", "left_out", "verdict", "decision", "versions"):
        assert getattr(back, name) == getattr(found, name), name
    assert back.threshold.source == found.threshold.source
    assert torch.equal(back.probe, found.probe)
    for want, got in zip(found.matches, back.matches, strict=True):
        assert (want.name, want.score) == (got.name, got.score)
        assert torch.equal(want.image, got.image)
        assert want.check == got.check
        assert torch.equal(want.attribution, got.attribution)
        assert (got.own_attribution is not None) == both
    again = back.save(tmp_path / "two", sigma=1, format="svg")
    assert all(path.read_bytes() == again[kind].read_bytes() for kind, path in paths.items())
    with pytest.raises(ValueError, match="got one of identification"):
        Explanation.load(paths["summary"])
    other = identify(pair, faces()[0], gallery[:3], "corrrise:n_masks=6", top_k=2)
    assert other.search_label != found.search_label
    shutil.copy(other.save(tmp_path / "three")["ranking"], paths["ranking"])
    cut(paths["ranking"], 0.3)
    with pytest.raises(ValueError, match="do not fit the ranking|cannot be read"):
        Identification.load(paths["summary"])
    paths["ranking"].unlink()
    with pytest.raises(FileNotFoundError, match="expected the ranking"):
        Identification.load(paths["summary"])
