"""A probe searched in a gallery: ranking, maps, files, figure."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from captum_face import METHODS, PairSimilarity, explain, identify
from captum_face.data import render_faces
from captum_face.data.images import load_image
from tests.attr.test_contract import FAST, same_state, state
from tests.conftest import small_net

SIZE = (14, 18)  # width and height: not square


def write(path, seed, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def pair(pair):
    """Of images of the size below, which are not taken for photos."""
    pair.image_size = (18, 14)
    return pair


@pytest.fixture
def folder(tmp_path):
    """A gallery of six images, one of them in a subfolder; and what is none."""
    for seed in range(5):
        write(tmp_path / "gallery" / f"{seed}.png", seed)
    write(tmp_path / "gallery" / "more" / "5.PNG", 5)
    (tmp_path / "gallery" / "README.txt").write_text("no image")
    write(tmp_path / "probe.png", 9)
    return tmp_path


def run(pair, folder, **options):
    return identify(pair, folder / "probe.png", folder / "gallery", **{**FAST["corrrise"], **options})


def test_the_ranking_is_that_of_the_pairs_and_the_maps_those_of_explain(pair, folder):
    before = state(pair)
    found = run(pair, folder, top_k=3)
    assert same_state(before, state(pair))
    paths = sorted((folder / "gallery").rglob("*.[pP][nN][gG]"))
    names = [path.relative_to(folder / "gallery").as_posix() for path in paths]
    probe = load_image(folder / "probe.png")
    with torch.no_grad():
        scores = dict(zip(names, (float(pair(probe, load_image(path))) for path in paths), strict=True))
    assert [name for name, _ in found.ranking] == sorted(names, key=lambda name: -scores[name])
    assert [match.name for match in found.matches] == [name for name, _ in found.ranking[:3]]
    for match in found.matches:
        path = folder / "gallery" / match.name
        assert match.score == pytest.approx(scores[match.name], abs=1e-6)
        assert torch.equal(match.image, load_image(path))
        want = explain(pair, folder / "probe.png", path, "corrrise", **FAST["corrrise"])
        torch.testing.assert_close(match.attribution, want.attributions[0])
        assert match.own_attribution is None
    assert found.maps.shape == (3, 18, 14)
    assert found.left_out == {}
    assert "more/5.PNG" in names


def test_both_explains_the_matches_too(pair, folder):
    found = run(pair, folder, top_k=2, both=True)
    for match in found.matches:
        want = explain(
            pair, folder / "probe.png", folder / "gallery" / match.name, "corrrise", **FAST["corrrise"]
        )
        torch.testing.assert_close(match.attribution, want.attributions[0])
        torch.testing.assert_close(match.own_attribution, want.attributions[1])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_explains_a_gallery_tensor(pair, images, method):
    found = identify(pair, images[0][0], images[1], method, top_k=2, **FAST.get(method, {}))
    assert found.maps.shape == (2, 18, 14)
    assert sorted(name for name, _ in found.ranking) == ["0", "1", "2"]
    assert found.settings["options"].keys() >= FAST.get(method, {}).keys()


def test_a_list_of_paths_and_a_tensor_with_names(pair, folder):
    paths = [folder / "gallery" / "3.png", str(folder / "gallery" / "1.png")]
    listed = identify(pair, folder / "probe.png", paths, top_k=9, **FAST["corrrise"])
    assert {match.name for match in listed.matches} == {str(path) for path in paths}
    stacked = torch.cat([load_image(path) for path in paths])
    named = identify(
        pair, Image.open(folder / "probe.png"), stacked, names=["ann", "bob"], **FAST["corrrise"]
    )
    assert {match.name for match in named.matches} == {"ann", "bob"}
    assert named.name == "probe"
    torch.testing.assert_close(named.maps, listed.maps)


def test_unreadable_files_and_the_probes_own_are_left_out_and_named(pair, folder):
    gallery = folder / "gallery"
    (gallery / "none.jpg").write_text("no image")
    whole = write(gallery / "cut.bmp", 7).read_bytes()
    (gallery / "cut.bmp").write_bytes(whole[:-200])  # its header is fine
    found = identify(pair, gallery / "2.png", gallery, batch_size=2, **FAST["corrrise"])
    assert found.left_out.keys() == {"2.png", "none.jpg", "cut.bmp"}
    assert found.left_out["2.png"] == "the probe's own file"
    assert "truncated" in found.left_out["cut.bmp"]
    assert sorted(name for name, _ in found.ranking) == ["0.png", "1.png", "3.png", "4.png", "more/5.PNG"]
    assert found.summary()["left_out"] == found.left_out
    assert found.summary()["searched"] == 5


def test_what_does_not_fit_is_refused_before_any_pass(pair, folder):
    seen = []
    pair.embedding_model.register_forward_pre_hook(lambda *_: seen.append(1))
    gallery = folder / "gallery"
    (folder / "empty").mkdir()
    (folder / "broken").mkdir()
    (folder / "broken" / "a.png").write_text("no image")
    stacked = torch.rand(2, 3, 18, 14)
    probe = folder / "probe.png"
    for arguments, options, error, message in (
        ((probe, folder / "nowhere"), {}, FileNotFoundError, "expected a folder .* found nothing"),
        ((probe, gallery / "0.png"), {}, FileNotFoundError, "found a file"),
        ((folder / "no.png", gallery), {}, FileNotFoundError, "expected an image file"),
        ((probe, folder / "empty"), {}, ValueError, "found none"),
        ((probe, folder / "broken"), {}, ValueError, "all 1 were left out, such as a.png"),
        ((probe, []), {}, ValueError, "at least one gallery image"),
        ((probe, 3), {}, TypeError, "expected gallery as a folder"),
        ((probe, gallery), {"top_k": 0}, ValueError, "top_k"),
        ((probe, gallery), {"names": ["a"]}, ValueError, "for a gallery of tensors or arrays alone"),
        ((probe, stacked), {"names": ["a", "a"]}, ValueError, "expected 2 different names"),
        ((probe, stacked[..., 1:]), {}, ValueError, "like the probe"),
        ((torch.rand(2, 3, 18, 14), gallery), {}, ValueError, "expected one probe"),
        ((probe, gallery, "corise"), {}, ValueError, "did you mean 'corrrise'"),
        ((probe, gallery), {"n_mask": 4}, ValueError, "did you mean 'n_masks'"),
        ((probe, gallery), {"batch_size": "all"}, ValueError, "batch_size"),
        ((probe, gallery, "lrp"), {"return_convergence_delta": True}, ValueError, "unknown option of lrp"),
    ):
        with pytest.raises(error, match=message):
            identify(pair, *arguments, **options)
    for name in "abcd":
        write(gallery / f"{name}.png", 3, (20, 10))
    with pytest.raises(ValueError, match=r"of 14x18 pixels.*got 4 of 10 .*a.png \(20x10\).* and 1 more"):
        run(pair, folder, align="never")
    assert seen == []


def test_turned_photos_have_the_size_that_they_are_read_with(pair, folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (18, 14)).save(folder / "gallery" / "turned.jpg", exif=exif)
    assert len(run(pair, folder).ranking) == 7


def test_figure_and_words(pair, folder):
    found = run(pair, folder, top_k=3)
    figure = found.plot(sigma=1, columns=2)
    assert isinstance(figure, Figure)
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert titles[0] == "probe\nprobe.png"
    assert [title.split(".")[0] for title in titles if title[0].isdigit()] == ["1", "2", "3"]
    assert "smoothed, σ = 1 px" in figure.get_suptitle()
    assert f"Best match of 6: {found.matches[0].name}" in figure.get_suptitle()
    assert found.decision == (found.matches[0].score >= pair.threshold)
    assert ("accepted" in found.verdict) == found.decision
    assert "Best" not in repr(found)
    assert repr(found.matches[0]).startswith("Match(")
    with pytest.raises(ValueError, match="columns"):
        found.plot(columns=0)


@pytest.mark.parametrize("both", [False, True])
def test_what_is_saved_can_be_read(pair, folder, both):
    found = run(pair, folder, top_k=2, both=both)
    paths = found.save(folder / "out", sigma=2)
    assert {path.name.replace(found.search_label, "probe", 1) for path in paths.values()} == {
        "probe.corrrise.png",
        "probe.corrrise.npz",
        "probe.corrrise.json",
        "probe.corrrise.csv",
    }
    with np.load(paths["maps"]) as arrays:
        assert arrays["attributions"].shape == (2, 3, 18, 14)
        assert np.allclose(arrays["maps"], found.maps.numpy())
        assert list(arrays["names"]) == [match.name for match in found.matches]
        assert ("own_attributions" in arrays) == both
    summary = json.loads(paths["summary"].read_text(encoding="utf-8"))
    assert summary["matches"][0]["name"] == found.ranking[0][0]
    assert summary["figure"] == {"sigma": 2}
    assert summary["protocol"]["options"]["n_masks"] == 12
    with open(paths["ranking"], newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], float(row["score"])) for row in rows] == list(found.ranking)


def test_a_figure_that_fails_leaves_what_was_saved_before(pair, folder):
    paths = run(pair, folder, top_k=2).save(folder / "out")
    before = {path: path.read_bytes() for path in paths.values()}
    with pytest.raises(TypeError, match="bogus"):
        run(pair, folder, top_k=1).save(folder / "out", bogus=1)
    assert {path: path.read_bytes() for path in (folder / "out").iterdir()} == before


@pytest.mark.parametrize("batch_size", [4, "auto"])
def test_half_of_the_gallery_where_memory_runs_out(pair, folder, batch_size):
    want = run(pair, folder, top_k=2)
    net = pair.embedding_model

    def model(x):
        if len(x) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return net(x)

    narrow = PairSimilarity(model, preprocess=pair.preprocess, threshold=pair.threshold)
    found = run(narrow, folder, top_k=2, batch_size=batch_size)
    assert [name for name, _ in found.ranking] == [name for name, _ in want.ranking]
    torch.testing.assert_close(found.maps, want.maps, rtol=1e-4, atol=1e-5)


@pytest.mark.real
def test_a_real_person_is_found(real_pair, shared):
    crops = shared / "data" / "lfw_crops"
    gallery = [crops / "010_2.png", *sorted(crops.glob("1*_1.png"))[:8]]
    found = identify(real_pair, crops / "010_1.png", gallery, "xssab", top_k=2)
    assert found.matches[0].name.endswith("010_2.png")
    assert found.decision


def test_a_probe_and_a_match_that_are_no_aligned_faces_are_told(tmp_path):
    faces = render_faces(4)
    pair = PairSimilarity(small_net().eval(), threshold=0.5)
    gallery = torch.cat([faces[1:3], faces[3:].flip(2)])
    found = identify(pair, faces[:1], gallery, "saliency", names=["ann", "bob", "flipped"])
    assert found.check.passed
    assert found.remarks == found.failed_checks
    (topic,) = found.failed_checks
    rank = int(topic.removeprefix("match_"))
    assert found.matches[rank - 1].name == "flipped"
    assert found.failed_checks[topic].startswith(f"match {rank} (flipped) does not look like a face")
    assert "does not look like" in found.plot().get_suptitle()
    summary = json.loads(found.save(tmp_path)["summary"].read_text())
    assert summary["check"]["passed"]
    assert [match["check"]["passed"] for match in summary["matches"]].count(False) == 1
    again = identify(pair, faces[:1].flip(2), gallery, "saliency")
    assert "probe does not look like a face" in again.failed_checks["probe"]
    pair.alignment = None
    assert identify(pair, faces[:1].flip(2), gallery, "saliency").failed_checks == {}
