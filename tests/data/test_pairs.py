from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from captum_face.data import FacePair, FacePairs, read_csv, read_lfw, read_pairs, synthetic, synthetic_pairs
from captum_face.data.face_pairs import ImageFiles, ImageSource
from captum_face.data.images import load_image


def write_image(path: Path, seed: int, size: tuple[int, int] = (6, 5)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    for seed, name in enumerate("abcd"):
        write_image(tmp_path / "faces" / f"{name}.png", seed)
    return tmp_path


@pytest.fixture
def listed(folder):
    """A CSV file of five pairs, three of them genuine; a.png is in three."""
    return write_csv(
        folder, "a.png,b.png,1", "a.png,c.png,0", "d.png,a.png,1", "b.png,c.png,1", "c.png,d.png,0"
    )


def write_csv(folder: Path, *lines: str, header: str = "image_a,image_b,same") -> Path:
    path = folder / "faces" / "pairs.csv"
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


class Counted(ImageSource):
    """Images whose every pixel is the number in their name; counts how often each is read."""

    def __init__(self):
        super().__init__()
        self.reads = []

    def _read(self, name):
        self.reads.append(name)
        return torch.full((3, 2, 2), float(name))

    def identity(self, name):
        return name


# --- the type -----------------------------------------------------------------------------------------


def test_a_pair_has_both_images_and_its_label(listed):
    pairs = read_csv(listed)
    assert len(pairs) == 5
    assert pairs.names[2] == ("d.png", "a.png")
    assert pairs.same.dtype == torch.bool
    assert pairs.same.tolist() == [True, False, True, True, False]
    assert pairs.image_names == ("a.png", "b.png", "c.png", "d.png")
    assert pairs.source == str(listed)
    assert pairs.folds is None
    two = pairs[2]
    assert isinstance(two, FacePair)
    assert torch.equal(two.image_a, load_image(listed.parent / "d.png")[0])
    assert torch.equal(two.image_b, load_image(listed.parent / "a.png")[0])
    assert two.same.shape == ()
    assert two.same.item() is True
    assert torch.equal(pairs.image("b.png"), load_image(listed.parent / "b.png")[0])
    assert pairs.truth(0) is None


def test_indices_are_those_of_a_sequence(listed):
    pairs = read_csv(listed)
    assert torch.equal(pairs[-1].image_a, pairs[4].image_a)
    assert torch.equal(pairs[np.int64(1)].image_b, pairs[1].image_b)
    assert sum(1 for _ in pairs) == 5  # iteration ends by the IndexError
    for index in (5, -6):
        with pytest.raises(IndexError, match=f"expected a pair below 5.*got {index}"):
            pairs[index]
        with pytest.raises(IndexError, match=f"got {index}"):
            pairs.truth(index)
    for index in (True, 1.0, "1", slice(2)):
        with pytest.raises(TypeError, match="expected the index of a pair as an integer"):
            pairs[index]


def test_images_are_read_when_asked_for_and_a_shared_one_once():
    images = Counted()
    pairs = FacePairs([("0", "1"), ("0", "2"), ("2", "0")], [True, False, False], images, source="test")
    assert images.reads == []
    for index in (0, 1, 2):
        pairs[index]
    pairs.subset([1])[0]
    assert images.reads == ["0", "1", "2"]


def test_the_memory_is_bounded_and_forgets_what_was_used_least_recently():
    images = Counted()
    images.remembered = 2
    for name in ("0", "1", "0", "2", "0", "1"):
        assert images.image(name)[0, 0, 0] == float(name)
    assert images.reads == ["0", "1", "2", "1"]
    assert len(images._recent) == 2


def test_an_image_belongs_to_who_asked_for_it():
    pairs = FacePairs([("3", "4")], [True], Counted(), source="test")
    pairs[0].image_a.zero_()
    pairs.image("4").zero_()
    assert (pairs[0].image_a == 3).all()
    assert (pairs[0].image_b == 4).all()


def test_an_unknown_image_name_is_an_error(listed):
    with pytest.raises(ValueError, match=r"expected the name of an image of .*such as 'a.png', got 'e.png'"):
        read_csv(listed).image("e.png")


def test_numbers_of_labels_places_and_folds_must_fit():
    for wrong, message in (
        ({"same": [True, True]}, r"expected one label per pair, shape \(1,\), got \(2,\)"),
        ({"places": ["line 1"] * 3}, "expected places for 1 pairs, got 3"),
        ({"folds": []}, "expected folds for 1 pairs, got 0"),
    ):
        arguments = {"same": [True], **wrong}
        with pytest.raises(ValueError, match=message):
            FacePairs([("0", "1")], images=Counted(), source="test", **arguments)


@pytest.mark.parametrize(
    ("label", "error", "message"),
    [
        (2, ValueError, "labels 1 .same person. or 0, got 2 at index 1"),
        (-1, ValueError, "got -1 at index 1"),
        (0.5, ValueError, "got 0.5 at index 1"),
        (float("nan"), ValueError, "got nan at index 1"),
        ("yes", TypeError, "expected labels as 2 values of 0 or 1"),
    ],
)
def test_labels_are_0_or_1(label, error, message):
    """Python would take all of these as true."""
    with pytest.raises(error, match=message):
        FacePairs([("0", "1"), ("1", "2")], [1, label], Counted(), source="test")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_loader_makes_batches(listed, workers):
    pairs = read_csv(listed)
    pairs[0]  # what is remembered must not hinder
    batches = list(DataLoader(pairs, batch_size=3, num_workers=workers))
    assert [type(batch) for batch in batches] == [FacePair, FacePair]
    assert [tuple(batch.image_a.shape) for batch in batches] == [(3, 3, 6, 5), (2, 3, 6, 5)]
    assert torch.equal(torch.cat([batch.same for batch in batches]), pairs.same)
    images = torch.cat([batch.image_b for batch in batches])
    assert all(torch.equal(images[i], pairs[i].image_b) for i in range(5))


def test_a_copy_for_a_worker_carries_no_images(listed):
    pairs = read_csv(listed)
    before = len(pickle.dumps(pairs))
    for index in range(5):
        pairs[index]
    assert len(pickle.dumps(pairs)) == before
    copy = pickle.loads(pickle.dumps(pairs))
    assert copy.fingerprint() == pairs.fingerprint()
    assert torch.equal(copy[3].image_a, pairs[3].image_a)


def test_an_error_in_a_worker_names_the_file(listed):
    (listed.parent / "d.png").write_text("broken")
    with pytest.raises(ValueError, match=r"pair 2 \(line 4 of .*pairs.csv\).*d.png"):
        list(DataLoader(read_csv(listed), batch_size=5, num_workers=2))


def test_a_broken_image_is_named_with_its_pair_and_line(listed):
    pairs = read_csv(listed)
    (listed.parent / "c.png").write_bytes((listed.parent / "c.png").read_bytes()[:60])
    with pytest.raises(
        ValueError, match=r"pair 1 \(line 3 of .*pairs.csv\): could not read the image .*c.png"
    ):
        pairs[1]
    with pytest.raises(ValueError, match=r"pair 4 \(line 6 of "):
        pairs[4]
    with pytest.raises(ValueError, match=r"pair 0 \(line 6 of "):
        pairs.subset([4])[0]
    with pytest.raises(ValueError, match=r"pair 1 \(line 3 of .*could not read the image .*c.png"):
        pairs.image("c.png")
    (listed.parent / "c.png").unlink()
    with pytest.raises(ValueError, match=r"pair 3 .*found nothing at .*c.png"):
        pairs[3]
    with pytest.raises(ValueError, match="could not read the image c.png of .*pairs.csv"):
        pairs.fingerprint()
    pairs[0]


def test_images_of_a_pair_must_have_one_size(listed):
    write_image(listed.parent / "b.png", 9, size=(7, 5))
    with pytest.raises(ValueError, match=r"pair 0 .*one size, got a.png of 6x5 and b.png of 7x5"):
        read_csv(listed)[0]


def test_a_subset_keeps_order_labels_and_places(listed):
    pairs = read_csv(listed).subset([3, 0, -1])
    assert pairs.names == (("b.png", "c.png"), ("a.png", "b.png"), ("c.png", "d.png"))
    assert pairs.same.tolist() == [True, True, False]
    assert pairs.image_names == ("b.png", "c.png", "a.png", "d.png")
    again = pairs.subset((~pairs.same).nonzero().flatten())
    assert again.names == (("c.png", "d.png"),)
    assert len(pairs.subset([])) == 0
    with pytest.raises(IndexError, match="got 3"):
        pairs.subset([0, 3])
    with pytest.raises(TypeError, match="as an integer, got True"):
        pairs.subset(pairs.same)


def test_balanced_takes_half_of_each_class_in_the_original_order():
    same = torch.arange(40) % 4 == 0  # 10 genuine, 30 impostor
    pairs = FacePairs([(str(i), str(i)) for i in range(40)], same, Counted(), source="test")

    def order(some):
        return [int(a) for a, _ in some.names]

    eight = pairs.balanced(8, seed=1)
    assert int(eight.same.sum()) == 4
    assert order(eight) == sorted(set(order(eight)))
    assert order(eight) == order(pairs.balanced(8, seed=1))
    assert order(eight) != order(pairs.balanced(8, seed=2))
    assert set(order(eight)) < set(order(pairs.balanced(13, seed=1)))
    assert int(pairs.balanced(7).same.sum()) == 4
    # As far as there are: then the other class fills up.
    assert int(pairs.balanced(36).same.sum()) == 10
    assert order(pairs.balanced(40)) == list(range(40))
    few_impostors = pairs.subset([0, 4, 8, 1])
    assert few_impostors.balanced(4).same.tolist() == [True, True, True, False]
    state = torch.get_rng_state()
    pairs.balanced(20)
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(ValueError, match="expected n of at most 40.*got 41"):
        pairs.balanced(41)
    with pytest.raises(ValueError, match="integer of at least 1, got 0"):
        pairs.balanced(0)


def test_balanced_chooses_all_pairs_equally_often():
    same = torch.arange(12) % 2 == 0
    pairs = FacePairs([(str(i), str(i)) for i in range(12)], same, Counted(), source="test")
    counts = torch.zeros(12)
    for seed in range(600):
        counts[[int(a) for a, _ in pairs.balanced(4, seed).names]] += 1
    assert ((counts / 600 - 1 / 3).abs() < 0.08).all()  # four standard errors


def test_the_fingerprint_changes_with_what_it_covers_and_with_nothing_else(listed, tmp_path):
    pairs = read_csv(listed)
    original = pairs.fingerprint()
    assert len(original) == 64
    elsewhere = tmp_path / "elsewhere"
    listed.parent.rename(elsewhere)
    assert read_csv(elsewhere / "pairs.csv").fingerprint() == original
    elsewhere.rename(listed.parent)

    changed = {
        original,
        pairs.subset([0, 1, 2, 3]).fingerprint(),
        pairs.subset([1, 0, 2, 3, 4]).fingerprint(),
    }
    images = ImageFiles({name: listed.parent / name for name in pairs.image_names})
    changed.add(FacePairs(pairs.names, ~pairs.same, images, source="x").fingerprint())
    changed.add(FacePairs(pairs.names, pairs.same, images, source="x", folds=[0] * 5).fingerprint())
    assert FacePairs(pairs.names, pairs.same, images, source="x").fingerprint() == original
    write_image(listed.parent / "d.png", 99)
    changed.add(pairs.fingerprint())
    assert len(changed) == 6


# --- CSV ----------------------------------------------------------------------------------------------


def test_csv_paths_are_relative_to_the_folder_of_images(folder):
    write_csv(folder, "faces/a.png,faces/b.png,1")
    listed = folder / "faces" / "pairs.csv"
    assert read_csv(listed, folder)[0].image_a.shape == (3, 6, 5)
    absolute = folder / "faces" / "a.png"
    write_csv(folder, f"{absolute},b.png,1")
    assert torch.equal(read_csv(listed)[0].image_a, load_image(absolute)[0])


def test_csv_columns_may_stand_in_any_order_with_others(folder):
    listed = write_csv(folder, " 1 , x , b.png, a.png", header="\ufeffsame, note, image_b, image_a")
    assert read_csv(listed).names == (("a.png", "b.png"),)


def test_csv_blank_lines_are_skipped_and_lines_still_counted(folder):
    listed = write_csv(folder, "", "a.png,b.png,1", "", " , , ", "c.png,b.png,7")
    with pytest.raises(ValueError, match=r"expected same as 1 .* or 0 .*got '7' in line 6 of .*pairs.csv"):
        read_csv(listed)


def test_csv_repeated_pairs_count_once_with_a_warning(folder):
    listed = write_csv(folder, "a.png,b.png,1", "./a.png,b.png,1", "b.png,a.png,1", "a.png,b.png,1")
    with pytest.warns(UserWarning, match="2 lines of .*pairs.csv repeat a pair, .*: line 3, line 5$"):
        pairs = read_csv(listed)
    assert pairs.names == (("a.png", "b.png"), ("b.png", "a.png"))


@pytest.mark.parametrize("second", ["a.png,b.png,0", "b.png,a.png,0"])
def test_csv_pairs_with_two_labels_are_refused(folder, second):
    listed = write_csv(folder, "a.png,b.png,1", second)
    with pytest.raises(
        ValueError, match=r"one label for each pair, got 0 for .* in line 3 .* and 1 in line 2"
    ):
        read_csv(listed)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "which is empty"),
        ("\n \n", "which is empty"),
        ("image_a,image_b,same\n", "expected pairs below the first line of .*pairs.csv, found none"),
        ("a.png,b.png,1\n", "expected the columns image_a,image_b,same in line 1 of .*, got a.png,b.png,1"),
        ("image_a,image_b\na.png,b.png\n", "expected the columns .*got image_a,image_b"),
        ("image_a,image_b,same\na.png,b.png\n", "expected 3 values in line 2 of .*, got 'a.png,b.png'"),
        ("image_a,image_b,same\na.png,b.png,1,2\n", "expected 3 values in line 2"),
        ("image_a,image_b,same\na.png,,1\n", "expected 3 values in line 2"),
        ("image_a,image_b,same\na.png,b.png,yes\n", "got 'yes' in line 2"),
        ("image_a,image_b,same\na.png,b.png,1.0\n", "got '1.0' in line 2"),
        ('image_a,image_b,same\n"a.png,b.png,1\n', "could not read line 2 of .*pairs.csv as CSV"),
    ],
)
def test_csv_that_is_none(folder, text, message):
    listed = folder / "faces" / "pairs.csv"
    listed.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_csv(listed)


def test_csv_in_another_encoding(folder):
    listed = folder / "faces" / "pairs.csv"
    listed.write_bytes("image_a,image_b,same\nJosé.png,b.png,1\n".encode("utf-16"))
    with pytest.raises(ValueError, match="expected text in UTF-8 in .*pairs.csv"):
        read_csv(listed)


def test_csv_names_with_commas_and_accents(folder):
    write_image(folder / "faces" / "é, 1.png", 5)
    assert read_csv(write_csv(folder, '"é, 1.png",b.png,0')).names == (("é, 1.png", "b.png"),)


def test_missing_images_are_found_at_once(folder):
    listed = write_csv(folder, "a.png,b.png,1", "a.png,none.png,0", "lost.png,b.png,0", "none.png,gone.png,1")
    with pytest.raises(
        FileNotFoundError,
        match=r"pair 1 \(line 3 of .*pairs.csv\): .*nothing at .*none.png \(2 more images are missing\)",
    ):
        read_csv(listed)


def test_the_folder_that_has_the_missing_images_is_named(folder):
    listed = write_csv(folder, "a.png,b.png,1")
    moved = listed.rename(folder / "pairs.csv")
    with pytest.raises(FileNotFoundError, match=r"pair 0 .*it is in .*faces: give the folder of images"):
        read_csv(moved)
    assert len(read_csv(moved, folder / "faces")) == 1


def test_missing_lists_and_folders(folder, listed):
    with pytest.raises(FileNotFoundError, match="expected a file of pairs, found nothing at .*no.csv"):
        read_csv(folder / "no.csv")
    with pytest.raises(FileNotFoundError, match="expected a file of pairs, found a folder"):
        read_lfw(folder)
    with pytest.raises(FileNotFoundError, match="expected a folder of images, found nothing at .*photos"):
        read_csv(listed, folder / "photos")
    with pytest.raises(FileNotFoundError, match="expected a folder of images, found a file"):
        read_csv(listed, listed)


# --- LFW ----------------------------------------------------------------------------------------------

PEOPLE = ("Ann_Lee", "Bo", "Cy_de_X", "Di")


@pytest.fixture
def lfw(tmp_path):
    """Two folds of one genuine and one impostor pair, with images in folders and flat, of three endings."""
    endings = {"Ann_Lee": "jpg", "Bo": "jpeg", "Cy_de_X": "png"}
    seed = 0
    for name in PEOPLE:
        for n in (1, 2, 13):
            seed += 1
            stem = f"{name}_{n:04d}"
            flat = tmp_path / "lfw" / f"{stem}.jpg"
            write_image(flat if name == "Di" else flat.parent / name / f"{stem}.{endings[name]}", seed)
    path = tmp_path / "lfw" / "pairs.txt"
    path.write_text("2\t1\nAnn_Lee\t1\t13\nBo\t2\tDi\t1\n\nCy_de_X\t2\t1\nAnn_Lee\t13\tCy_de_X\t2\n")
    return path


def test_lfw_pairs_with_their_folds(lfw):
    pairs = read_lfw(lfw)
    assert pairs.names == (
        ("Ann_Lee/Ann_Lee_0001.jpg", "Ann_Lee/Ann_Lee_0013.jpg"),
        ("Bo/Bo_0002.jpeg", "Di_0001.jpg"),
        ("Cy_de_X/Cy_de_X_0002.png", "Cy_de_X/Cy_de_X_0001.png"),
        ("Ann_Lee/Ann_Lee_0013.jpg", "Cy_de_X/Cy_de_X_0002.png"),
    )
    assert pairs.same.tolist() == [True, False, True, False]
    assert pairs.folds.tolist() == [0, 0, 1, 1]
    assert pairs.folds.dtype == torch.int64
    assert pairs.subset([3, 0]).folds.tolist() == [1, 0]
    assert torch.equal(pairs[1].image_b, load_image(lfw.parent / "Di_0001.jpg")[0])
    assert torch.equal(read_lfw(lfw, lfw.parent)[3].image_a, pairs[3].image_a)


def test_lfw_with_a_single_count_has_no_folds(lfw):
    lfw.write_text("1\nAnn_Lee 1 2\nBo 1 Di 1\n")
    pairs = read_lfw(lfw)
    assert pairs.same.tolist() == [True, False]
    assert pairs.folds is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Ann_Lee 1 2\n", r"expected '10 300' .* in line 1 of .*pairs.txt, got 'Ann_Lee 1 2'"),
        ("10 300 1\n", "in line 1"),
        ("0\n", "in line 1"),
        ("-1 3\n", "in line 1"),
        ("2 1\nAnn_Lee 1 2\nBo 1 Di 1\n", "expected 4 pairs in .*pairs.txt.*got 2"),
        ("99999999999 99999999999\nAnn_Lee 1 2\n", "expected 19999999999600000000002 pairs"),
        ("1\nAnn_Lee 1 2\nBo 1 2\n", "expected 1 genuine and 1 impostor pairs in fold 1 .*got 2 genuine"),
        ("1\nAnn_Lee 1 2\nBo 1 Di\n", "expected 'name n1 n2' .* in line 3 of .*got 'Bo 1 Di'"),
        ("1\nAnn_Lee 1 2\nBo 1 Di 1 5\n", "in line 3 of"),
        ("1\nAnn_Lee 1 2\nBo one Di 1\n", "in line 3 of"),
        ("1\nAnn_Lee 1 2\nBo 1 Bo 2\n", "in line 3 of"),
        ("", "which is empty"),
    ],
)
def test_lfw_that_is_none(lfw, text, message):
    lfw.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_lfw(lfw)


def test_lfw_missing_images(lfw):
    (lfw.parent / "Bo" / "Bo_0002.jpeg").unlink()
    with pytest.raises(FileNotFoundError, match=r"pair 1 \(line 3 of .*nothing at .*Bo_0002.jpg;"):
        read_lfw(lfw)
    moved = lfw.rename(lfw.parents[1] / "pairs.txt")
    with pytest.raises(
        FileNotFoundError, match=r"pair 0 \(line 2 .*5 more images are missing\); it is in .*lfw"
    ):
        read_lfw(moved)


def test_lfw_broken_image(lfw):
    (lfw.parent / "Di_0001.jpg").write_text("broken")
    with pytest.raises(ValueError, match=r"pair 1 \(line 3 of .*pairs.txt\): .*Di_0001.jpg"):
        read_lfw(lfw)[1]


# --- which of them ------------------------------------------------------------------------------------


def test_read_pairs_goes_by_ending_or_content(lfw, listed):
    assert read_pairs(lfw).folds is not None
    assert read_pairs(str(listed)).names == read_csv(listed).names
    for path in (lfw, listed):
        bare = path.rename(path.with_suffix(""))
        assert read_pairs(bare, path.parent).names == read_pairs(bare).names
        assert len(read_pairs(bare)) in (4, 5)


def test_read_pairs_of_something_else(tmp_path):
    path = tmp_path / "pairs.dat"
    path.write_text("a.png b.png 1\n")
    with pytest.raises(
        ValueError, match=r"expected pairs as CSV .*pairs.dat, got a file that starts with b'a.png"
    ):
        read_pairs(path)
    path.write_text("")
    with pytest.raises(ValueError, match="starts with b''"):
        read_pairs(path)
    for missing, found in (
        (tmp_path / "none", "nothing"),
        (tmp_path, "a folder"),
        (tmp_path / "x.csv", "nothing"),
    ):
        with pytest.raises(FileNotFoundError, match=f"expected a file of pairs.*found {found} at"):
            read_pairs(missing)


def test_real_pairs(shared):
    pairs = read_pairs(shared / "data" / "pairs.csv", shared / "data" / "lfw_crops")
    assert len(pairs) == 208
    assert int(pairs.same.sum()) == 104
    # The file names say who is in the picture.
    assert pairs.same.tolist() == [a.split("_")[0] == b.split("_")[0] for a, b in pairs.names]
    batch = next(iter(DataLoader(pairs.balanced(10), batch_size=10)))
    assert batch.image_a.shape == (10, 3, 112, 112)
    assert int(batch.same.sum()) == 5
    others = len({name for names in pairs.names for name in names}) - 1
    with pytest.raises(FileNotFoundError, match=f"{others} more images are missing.*it is in .*lfw_crops"):
        read_pairs(shared / "data" / "pairs.csv")


# --- synthetic pairs ----------------------------------------------------------------------------------


def test_synthetic_pairs_come_by_turns_and_know_what_differs():
    pairs = synthetic_pairs(6, seed=3, changed=("mouth",))
    assert pairs.same.tolist() == [True, False, False, True, False, False]
    assert [pairs.truth(i) is None for i in range(6)] == [True, True, False] * 2
    a, b, _ = pairs[2]
    assert a.shape == b.shape == (3, 112, 112)
    masks = pairs.truth(2)
    for mask in masks:
        assert mask.shape == (112, 112)
        assert mask.dtype == torch.bool
        rows = mask.nonzero()[:, 0]
        assert rows.min() > 75  # the mouth is below
    assert torch.equal(pairs.truth(-4)[1], masks[1])
    masks[0].zero_()
    assert pairs.truth(2)[0].any()
    # Without the exchange the pair is a genuine one of the same person and circumstances.
    seed = pairs._images.pairs[pairs.names[2]][0]
    unchanged = synthetic.pair(seed)
    assert torch.equal(a, unchanged.image_a[0])
    outside = ~masks[1].expand(3, -1, -1)
    assert (b - unchanged.image_b[0]).abs()[outside].max() <= synthetic.CHANGE_THRESHOLD + 1e-6


def test_synthetic_pairs_are_decided_by_their_seed():
    pairs = synthetic_pairs(3, seed=1)
    assert torch.equal(pairs[0].image_a, synthetic_pairs(3, seed=1)[0].image_a)
    assert torch.equal(pairs[2].image_b, synthetic_pairs(9, seed=1)[2].image_b)
    assert not torch.equal(pairs[0].image_a, synthetic_pairs(3, seed=2)[0].image_a)
    prints = [synthetic_pairs(3, seed=1).fingerprint(), synthetic_pairs(3, seed=2).fingerprint()]
    prints += [
        synthetic_pairs(3, seed=1, changed="nose").fingerprint(),
        synthetic_pairs(3, seed=1, strength=1.0).fingerprint(),
        synthetic_pairs(4, seed=1).fingerprint(),
    ]
    assert prints[0] == pairs.fingerprint()
    assert len(set(prints)) == 5


def test_no_two_synthetic_pairs_share_a_person():
    def people(pairs):
        # A pair draws 13 people of its seed: the person and those whom the other image can take from.
        for seed, *_ in pairs._images.pairs.values():
            identities = synthetic.sample_identities(13, seed)
            for i in range(13):
                yield torch.cat([identities[i].vectors[part] for part in ("jaw", "nose", "eyes")], dim=1)

    # torch's generator on the CPU sees 32 bits of a seed, so the last data set could meet the first.
    data_sets = [synthetic_pairs(12, seed=seed) for seed in (0, 1, 2**15 - 2)]
    vectors = torch.cat([vector for pairs in data_sets for vector in people(pairs)])
    assert len(vectors) == 3 * 12 * 13
    for parts in vectors.split((7, 7, 11), dim=1):  # no part of anyone comes again
        assert len(parts.unique(dim=0)) == len(vectors)
    seeds = [row[0] for row in synthetic_pairs(2**16, seed=2**15 - 2)._images.pairs.values()]
    assert 2 * max(seeds) + 1 < 2**32
    assert len(set(seeds)) == 2**16


def test_a_synthetic_pair_is_drawn_once(monkeypatch):
    calls = []
    draw = synthetic.pair
    monkeypatch.setattr(
        synthetic, "pair", lambda *args, **kwargs: calls.append(args) or draw(*args, **kwargs)
    )
    pairs = synthetic_pairs(3)
    assert calls == []
    pairs[2]
    pairs.truth(2)
    pairs.image(pairs.names[2][1])
    assert len(calls) == 1


def test_synthetic_pairs_in_workers():
    pairs = synthetic_pairs(4)
    batches = list(DataLoader(pairs, batch_size=2, num_workers=2))
    assert torch.equal(batches[1].image_b[0], pairs[2].image_b)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "expected n to be an integer of at least 1, got 0"),
        ({"n": 2**16 + 1}, "expected n of at most 65536 pairs, got 65537"),
        ({"n": 3, "seed": -1}, "expected seed as an integer from 0 to 32766, got -1"),
        ({"n": 3, "seed": 2**15 - 1}, "got 32767"),
        ({"n": 3, "seed": 1.0}, "got 1.0"),
        ({"n": 3, "changed": ()}, "expected at least one part to change"),
        ({"n": 3, "changed": ("mouht",)}, "unknown face part 'mouht'.*did you mean 'mouth'"),
    ],
)
def test_bad_requests_for_synthetic_pairs(arguments, message):
    with pytest.raises(ValueError, match=message):
        synthetic_pairs(**arguments)
