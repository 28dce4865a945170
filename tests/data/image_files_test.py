"""Images that stay on disk: what is read when, how much is kept, and which paths are refused."""

import os

import numpy as np
import PIL.Image
import pytest

from arft_jax.data import image_files
from arft_jax.data.image_files import FileImage, ImageFiles, header_size, safe_path
from arft_jax.data.images import STAND_IN_GREY, Quarantine, decode_image, stand_in


def picture(path, height=20, width=30, value=0, **save):
    pixels = np.full((height, width, 3), value, np.uint8)
    pixels[0, 0] = 255
    PIL.Image.fromarray(pixels).save(path, **save)
    return path


def turned(orientation):
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.fixture
def decoded(monkeypatch):
    """The paths that were decoded, in order."""
    seen = []

    def decode(path, *args, **kwargs):
        seen.append(os.path.basename(path))
        return decode_image(path, *args, **kwargs)

    monkeypatch.setattr(image_files, "decode_image", decode)
    return seen


def test_a_file_is_the_image_that_decoding_gives(tmp_path):
    path = picture(tmp_path / "a.png", value=7)
    image, eager = FileImage(ImageFiles(), path, "image_1", "item 1"), decode_image(path, "image_1")
    assert (image.name, image.size, image.sha256) == (eager.name, eager.size, eager.sha256)
    np.testing.assert_array_equal(image.pixels, eager.pixels)


def test_nothing_is_decoded_before_it_is_looked_at(tmp_path, decoded):
    files = ImageFiles()
    image = FileImage(files, picture(tmp_path / "a.jpg"), "image_1", "item 1")
    other = FileImage(files, picture(tmp_path / "b.png"), "image_1", "item 2")
    assert (image.size, other.size, decoded) == ((20, 30), (20, 30), [])
    assert image.sha256 == image.sha256 and image.pixels.shape == (20, 30, 3)
    assert decoded == ["a.jpg"]


def test_pixels_are_kept_up_to_the_bound_and_the_last_used_longest(tmp_path, decoded):
    files = ImageFiles(max_bytes=2 * 20 * 30 * 3)
    a, b, c = (FileImage(files, picture(tmp_path / f"{n}.png", value=ord(n)), n, n) for n in "abc")
    for image in (a, b, a, c, a, b):
        assert image.pixels[5, 5, 0] == ord(image.name)
    assert decoded == ["a.png", "b.png", "c.png", "b.png"]  # b went for c, c for b; a was always the last but one
    assert files.n_bytes == 2 * 20 * 30 * 3
    whole = ImageFiles(max_bytes=1)
    assert FileImage(whole, tmp_path / "a.png", "", "").pixels.shape == (20, 30, 3) and whole.n_bytes == 0


@pytest.mark.parametrize("suffix, save", [("jpg", {}), ("png", {}), ("tiff", {}), ("webp", {}), ("gif", None)])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_header_gives_the_size_that_decoding_gives(tmp_path, suffix, save, orientation):
    save = {} if save is None else dict(exif=turned(orientation))
    path = picture(tmp_path / f"a.{suffix}", **save)
    assert header_size(path) == decode_image(path).size
    if save and orientation in (6, 8):
        assert header_size(path) == (30, 20)


def test_a_file_that_cannot_be_read_is_refused_at_once_and_a_damaged_one_when_used(tmp_path):
    (tmp_path / "no.png").write_bytes(b"hello")
    with pytest.raises(ValueError, match="image must be readable: got .*no.png"):
        FileImage(ImageFiles(), tmp_path / "no.png", "image_1", "item 5")
    long = picture(tmp_path / "long.png", height=4, width=4 * 201)
    with pytest.raises(ValueError, match="aspect ratio .* got 4x804"):
        header_size(long)
    noise = np.random.default_rng(0).integers(0, 256, (50, 50, 3), np.uint8)
    PIL.Image.fromarray(noise).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:2000])
    image = FileImage(ImageFiles(), tmp_path / "cut.png", "image_1", "item 5 of x.json")
    with pytest.raises(ValueError, match=r"item 5 of x.json: image must be readable: got .*cut.png"):
        _ = image.sha256


def cut(path):
    """A PNG of 50x60 whose pixels are cut short."""
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    return path


def test_behind_a_quarantine_a_bad_file_is_grey_of_its_headers_size_and_counted_once(tmp_path, decoded):
    quarantine = Quarantine()
    files = ImageFiles(max_bytes=1, quarantine=quarantine)  # nothing is kept: each look decodes again
    a, b = (FileImage(files, cut(tmp_path / "cut.png"), "image_1", item) for item in ("item 1", "item 2"))
    good = FileImage(files, picture(tmp_path / "good.png"), "image_1", "item 3")
    assert (a.size, a.is_bad, quarantine.n_images) == ((50, 60), False, 0)
    for image in (a, b, a):
        np.testing.assert_array_equal(image.pixels, np.full((50, 60, 3), STAND_IN_GREY, np.uint8))
    assert a.sha256 == b.sha256 and good.pixels[0, 0, 0] == 255
    assert a.is_bad and b.is_bad and not good.is_bad
    assert dict(quarantine.counts) == {"damage": 1} and "cut.png" in quarantine.messages[0]
    assert decoded == ["cut.png", "good.png"]


def test_behind_a_quarantine_a_file_without_a_header_is_the_stand_in(tmp_path):
    quarantine = Quarantine()
    files = ImageFiles(quarantine=quarantine)
    (tmp_path / "no.png").write_bytes(b"hello")
    images = [FileImage(files, tmp_path / "no.png", "image_1", item) for item in ("item 1", "item 2")]
    assert all(image.is_bad and image.sha256 == stand_in().sha256 for image in images)
    assert dict(quarantine.counts) == {"format": 1}
    with pytest.raises(ValueError, match="must exist"):  # a wrong path is no bad image
        FileImage(files, tmp_path / "gone.png", "image_1", "item 3")


def test_a_file_that_goes_bad_after_rows_have_seen_it_is_refused(tmp_path):
    files = ImageFiles(max_bytes=1, quarantine=Quarantine())
    path = tmp_path / "a.png"
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)).save(path)
    image = FileImage(files, path, "image_1", "item 5")
    assert image.sha256
    cut(path)
    with pytest.raises(ValueError, match="item 5: image must be readable: got .*a.png"):
        _ = image.pixels


def test_a_file_that_changes_its_size_is_no_more_the_same_image(tmp_path):
    image = FileImage(ImageFiles(), picture(tmp_path / "a.png"), "image_1", "item 5")
    picture(tmp_path / "a.png", height=21)
    with pytest.raises(ValueError, match="item 5: .* must not change during a run: .* was 20x30 and is 21x30"):
        _ = image.pixels


@pytest.mark.parametrize("quarantine", [None, Quarantine()])
def test_a_link_that_takes_a_files_or_a_folders_place_behind_the_check_is_refused(tmp_path, quarantine):
    root, outside = tmp_path.resolve() / "root", tmp_path.resolve() / "outside"
    for folder in (root / "sub" / "deep", outside / "deep"):
        folder.mkdir(parents=True)
        picture(folder / "a.png", value=9 if folder.is_relative_to(outside) else 7)
    (root / "inner.png").symlink_to("sub/deep/a.png")
    files = ImageFiles(max_bytes=1, quarantine=quarantine)  # nothing is kept
    image = FileImage(files, safe_path(root, "inner.png"), "image_1", "item 5 of x.json")
    assert image.pixels[5, 5, 0] == 7  # a link inside that was there at the start

    def swapped(path, target):
        path.rename(path.with_name("kept"))
        path.symlink_to(target)
        sentence = rf"item 5 of x.json: an image path must stay in its folder: .*a.png leads over '{path.name}', which"
        with pytest.raises(ValueError, match=sentence):
            _ = image.pixels
        with pytest.raises(ValueError, match="has become a link since"):
            files.size(image.path)
        path.unlink()
        path.with_name("kept").rename(path)

    swapped(root / "sub" / "deep" / "a.png", outside / "deep" / "a.png")
    swapped(root / "sub" / "deep", outside / "deep")
    swapped(root / "sub", outside)
    assert image.pixels[5, 5, 0] == 7 and not image.is_bad


def test_a_pipe_that_takes_a_files_place_is_not_waited_for(tmp_path):
    path = picture(tmp_path / "a.png")
    image = FileImage(ImageFiles(), path, "image_1", "item 5")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match=r"item 5: image must be readable: got .*a.png \(not a regular file\)"):
        _ = image.pixels


def test_paths_stay_in_their_folder(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside.png"
    (root / "sub").mkdir(parents=True)
    picture(outside), picture(root / "sub" / "in.png")
    (root / "link.png").symlink_to(outside)
    (root / "out").symlink_to(tmp_path)
    (root / "inner.png").symlink_to(root / "sub" / "in.png")
    (root / "circle").symlink_to(root / "circle")
    assert safe_path(root, "sub/in.png") == safe_path(root, "inner.png") == (root / "sub" / "in.png").resolve()
    (tmp_path / "alias").symlink_to(root)  # the folder itself may be a link
    assert safe_path(tmp_path / "alias", "sub/in.png").is_file()
    for name, sentence in {
        str(outside): "must stay in its folder, relative",
        "../outside.png": "must stay in its folder, relative",
        "sub/../../outside.png": "must stay in its folder, relative",
        "link.png": "is a link to .*outside.png, outside of",
        "out/outside.png": "is a link to",
        "sub/in.png\0.txt": "must be a file name",
        "circle": "must be a file name|must exist",
        "x" * 5000: "must be a file name",
        "": "must be a file name",
        7: "must be a file name: got 7",
        "sub": "image file must exist",
        "gone.png": "image file must exist: got .*gone.png",
    }.items():
        with pytest.raises(ValueError, match=sentence):
            safe_path(root, name)
