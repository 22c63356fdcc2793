"""Every format: the same numbers and the same Å per pixel come back, and what is no image says so."""

import asyncio
import json
import os
import pathlib
import pickle
import subprocess
import sys
import tracemalloc
import zipfile

import h5py
import numpy as np
import pytest
import sample_files
import tifffile
import zarr
from PIL import Image
from sample_files import ANGSTROM_PER_PX, CALIBRATED, IMAGE, PLAIN, swift

from stem_ae import StemAeError, imageio


@pytest.mark.parametrize(
    ("suffix", "module"), [("hspy", "hspy"), ("zspy", "zspy"), ("tif", "tiff"), ("hdf5", "hspy")]
)
def test_calibrated_files_keep_numbers_and_sampling(tmp_path, suffix, module):
    path = tmp_path / f"image.{suffix}"
    sample_files.rosettasciio(module, path, IMAGE.astype(np.float32))
    stack = imageio.read(path)
    np.testing.assert_array_equal(stack.frames, IMAGE[None])
    assert stack.sampling == pytest.approx((0.08, 0.12), rel=1e-4)
    assert stack.sampling_source == f"stated in image.{suffix}"


def test_a_series_keeps_its_frames(tmp_path):
    movie = np.stack([IMAGE, IMAGE[::-1], IMAGE.T[:24, :24].repeat(2, axis=1)[:, :36]]).astype(float)
    sample_files.rosettasciio("hspy", tmp_path / "movie.hspy", movie, (1, 10.0, 10.0), [None, "pm", "pm"])
    stack = imageio.read(tmp_path / "movie.hspy")
    np.testing.assert_array_equal(stack.frames, movie)
    assert stack.sampling == pytest.approx((0.1, 0.1))


def test_plain_tiff_and_png_have_no_sampling_until_given(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", IMAGE)
    Image.fromarray(IMAGE).save(tmp_path / "b.png")
    Image.fromarray(np.stack([IMAGE] * 3, axis=-1)).save(tmp_path / "colour.png")
    for name in ("a.tif", "b.png", "colour.png"):
        stack = imageio.read(tmp_path / name)
        np.testing.assert_allclose(stack.frames[0], IMAGE)
        assert stack.sampling is None
        assert imageio.read(tmp_path / name, sampling=0.2).sampling == (0.2, 0.2)


@pytest.mark.parametrize(("unit", "per_unit"), [("nm", 10), ("micron", 1e4), ("um", 1e4), ("angstrom", 1)])
def test_imagej_calibrations(tmp_path, unit, per_unit):
    resolution = (per_unit / 0.12, per_unit / 0.08)
    tifffile.imwrite(
        tmp_path / "a.tif", IMAGE.astype(np.float32), imagej=True, resolution=resolution, metadata={"unit": unit}
    )
    assert imageio.read(tmp_path / "a.tif").sampling == pytest.approx((0.08, 0.12), rel=1e-4)


SWIFT = {"title": "HAADF", "spatial_calibrations": [{"offset": -1.0, "scale": 0.01, "units": "nm"}] * 2}


def test_what_swift_writes(tmp_path):
    np.save(tmp_path / "a.npy", IMAGE)
    (tmp_path / "a.json").write_text(json.dumps(SWIFT))
    with zipfile.ZipFile(tmp_path / "b.ndata1", "w") as archive:
        archive.write(tmp_path / "a.npy", "data.npy")
        archive.writestr("metadata.json", json.dumps(SWIFT))
    with h5py.File(tmp_path / "c.h5", "w") as file:  # a data item in a project's folder
        properties = {"data_source": {"dimensional_calibrations": SWIFT["spatial_calibrations"]}}
        file.create_dataset("data", data=IMAGE).attrs["properties"] = json.dumps(properties)
    for name in ("a.npy", "b.ndata1", "c.h5"):
        stack = imageio.read(tmp_path / name)
        np.testing.assert_array_equal(stack.frames[0], IMAGE)
        assert stack.sampling == pytest.approx((0.1, 0.1))


def test_what_swift_itself_writes(tmp_path):
    """The formats above are not ours: Swift's own code writes them here, as exports and in a project's folder."""
    manager = pytest.importorskip("nion.swift.model.ImportExportManager")
    from nion.data import Calibration, DataAndMetadata
    from nion.swift.model import DataItem

    from nionswift_plugin.stem_ae_app import main

    calibration = Calibration.Calibration(0, 0.02, "nm")
    xdata = DataAndMetadata.new_data_and_metadata(IMAGE, dimensional_calibrations=[calibration] * 2)
    loop = asyncio.new_event_loop()
    profile = main.own_profile(tmp_path, loop)
    try:
        (reference,) = profile.project_references
        profile.read_project(reference)
        document = reference.document_model
        for large in (False, True):
            item = DataItem.new_data_item(xdata)
            item.large_format = large
            document.append_data_item(item)
        display = document.get_display_item_for_data_item(item)
        for name, suffix in (("NDataImportExportHandler", "ndata1"), ("NumPyImportExportHandler", "npy")):
            path = tmp_path / f"image.{suffix}"
            getattr(manager, name)("test", "test", [suffix]).write_display_item(display, path, suffix)
    finally:
        profile.close()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
    exported = [tmp_path / "image.ndata1", tmp_path / "image.npy"]
    kept = [path for path in (tmp_path / "project").rglob("*") if path.suffix in (".ndata", ".h5")]
    assert {path.suffix for path in kept} == {".ndata", ".h5"}
    for path in exported + kept:
        stack = imageio.read(path)
        assert stack.sampling == pytest.approx((0.2, 0.2))
        np.testing.assert_array_equal(stack.frames[0], IMAGE)


def test_the_user_wins_over_the_file(tmp_path):
    np.save(tmp_path / "a.npy", IMAGE)
    (tmp_path / "a.json").write_text(json.dumps(SWIFT))
    stack = imageio.read(tmp_path / "a.npy", sampling=(0.3, 0.4))
    assert stack.sampling == (0.3, 0.4)
    assert stack.sampling_source == "given by the user"


def test_a_stated_field_of_view(tmp_path):
    np.save(tmp_path / "a.npy", IMAGE)
    view = {"field_of_view_x": 3.6, "field_of_view_y": 2.4, "field_of_view_units": "nm"}
    (tmp_path / "a.json").write_text(json.dumps({"details": {"spatial_info": view}}))
    assert imageio.read(tmp_path / "a.npy").sampling == pytest.approx((1.0, 1.0))


def test_hdf5_with_several_images_asks_which(tmp_path):
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["first/image"] = IMAGE
        file["second"] = IMAGE[::-1]
        file["positions"] = np.zeros((40, 2))
    with pytest.raises(StemAeError, match=r"2 images.*first/image 24x36.*second"):
        imageio.read(tmp_path / "x.hdf5")
    np.testing.assert_array_equal(imageio.read(tmp_path / "x.hdf5", dataset="second").frames[0], IMAGE[::-1])
    np.testing.assert_array_equal(imageio.read(tmp_path / "x.hdf5", dataset="0").frames[0], IMAGE)
    with pytest.raises(StemAeError, match="no image 'third'"):
        imageio.read(tmp_path / "x.hdf5", dataset="third")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("broken.dm3", b"not a micrograph", "Cannot read broken.dm3"),
        ("broken.npy", b"\x93NUMPY", "Cannot read broken.npy"),
        ("notes.docx", b"PK", "No reader knows"),
    ],
)
def test_files_that_cannot_be_read_say_so(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StemAeError, match=sentence):
        imageio.read(tmp_path / name)


def test_a_pickle_is_never_opened(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(StemAeError, match="Cannot read"):
        imageio.read(tmp_path / "objects.npy")


def test_missing_files_and_spectra(tmp_path):
    with pytest.raises(StemAeError, match="no file"):
        imageio.read(tmp_path / "nothing.tif")
    np.save(tmp_path / "spectrum.npy", np.zeros(100))
    with pytest.raises(StemAeError, match="holds no image"):
        imageio.read(tmp_path / "spectrum.npy")


@pytest.mark.parametrize(
    ("scale", "units", "expected"),
    [
        (0.01, "nm", 0.1), (10, "pm", 0.1), (1, "\u212b", 1.0), (1e-4, "\u03bcm", 1.0),
        (1, "1/nm", None), (0, "nm", None), (1, "", None),
    ],
)
def test_units(scale, units, expected):
    assert imageio.to_angstrom(scale, units) == (None if expected is None else pytest.approx(expected))


# --- usual files ------------------------------------------------------------------------------------------------------


def refusal(path, **options):
    with pytest.raises(StemAeError) as error:
        imageio.read(path, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", CALIBRATED)
def test_usual_files_keep_numbers_orientation_and_sampling(tmp_path, name):
    CALIBRATED[name](tmp_path / name)
    stack = imageio.read(tmp_path / name)
    np.testing.assert_array_equal(stack.frames, IMAGE[None])
    assert stack.sampling == pytest.approx(ANGSTROM_PER_PX, rel=1e-5)
    assert stack.sampling_source == f"stated in {name}"


@pytest.mark.parametrize("name", ["a.dm3", "a.dm4"])
def test_digital_micrograph_as_swift_writes_it(tmp_path, name):
    pytest.importorskip("nionswift_plugin.DM_IO.dm3_image_utils")
    sample_files.digital_micrograph(tmp_path / name)
    stack = imageio.read(tmp_path / name)
    np.testing.assert_array_equal(stack.frames, IMAGE[None])
    assert stack.sampling == pytest.approx(ANGSTROM_PER_PX, rel=1e-5)
    sample_files.digital_micrograph(tmp_path / name, units="1/nm")
    assert "1/nm: a diffraction pattern" in refusal(tmp_path / name)


@pytest.mark.parametrize("name", PLAIN)
def test_files_without_sampling_say_so(tmp_path, name):
    PLAIN[name](tmp_path / name)
    stack = imageio.read(tmp_path / name)
    np.testing.assert_array_equal(stack.frames[0], IMAGE)
    assert (stack.sampling, stack.sampling_source) == (None, f"not stated in {name}")


@pytest.mark.parametrize(
    ("name", "other"),
    [("a.mrc", "a.rec"), ("a.hspy", "a.h5"), ("ncem.emd", "ncem.hdf5"), ("velox.emd", "velox.h5"), ("a.nhdf", "a.h5"),
     ("a.ndata1", "a.zip"), ("imagej.tif", "imagej.dat"), ("plain.png", "plain.tif"), ("a.npy", "a.bin")],
)  # fmt: skip
def test_the_same_bytes_are_the_same_image_whatever_the_ending(tmp_path, name, other):
    {**CALIBRATED, **PLAIN}[name](tmp_path / name)
    first = imageio.read(tmp_path / name)
    (tmp_path / name).rename(tmp_path / other)
    np.testing.assert_array_equal(imageio.read(tmp_path / other).frames, first.frames)


@pytest.mark.parametrize(
    ("unit", "angstrom"),
    [("nanometers", 10), ("NM", 10), ("[n_m]", 10), ("$nm$", 10), ("nm/px", 10), ("Angstroms", 1), (r"$\AA$", 1),
     ("A", 1), ("Ångström", 1), ("angstroem", 1), (r"\u00C5", 1), ("micrometer", 1e4), ("microns", 1e4),
     (r"\u00B5m", 1e4),     (r"$\mu$m", 1e4), ("&#181;m", 1e4), ("Âµm", 1e4), ("picometres", 0.01), ("metre", 1e10)],
)  # fmt: skip
def test_every_spelling_of_a_unit(tmp_path, unit, angstrom):
    scales = (0.8 / angstrom, 1.2 / angstrom)
    sample_files.rosettasciio("hspy", tmp_path / "a.hspy", IMAGE, scales, unit)
    assert imageio.read(tmp_path / "a.hspy").sampling == pytest.approx((0.8, 1.2))


@pytest.mark.parametrize("unit", ["furlong", "MM", "parsec per px"])
def test_a_unit_that_is_not_understood_is_named(tmp_path, unit):
    sample_files.rosettasciio("hspy", tmp_path / "a.hspy", IMAGE, (1.0, 1.0), unit)
    stack = imageio.read(tmp_path / "a.hspy")
    assert stack.sampling is None
    assert stack.sampling_source == f"stated in {unit!r} in a.hspy, which is not understood"


def test_ome_without_a_unit_is_in_micrometres(tmp_path):
    sample_files.ome(tmp_path / "a.ome.tif", unit=None, scales=(8e-6, 12e-6))
    assert imageio.read(tmp_path / "a.ome.tif").sampling == pytest.approx(ANGSTROM_PER_PX)


def test_channels_of_ome_are_images_of_their_own(tmp_path):
    both = np.stack([IMAGE, IMAGE[::-1]])
    sample_files.ome(tmp_path / "a.ome.tif", both, axes="CYX", Channel={"Name": ["HAADF", "BF"]})
    assert "HAADF" in refusal(tmp_path / "a.ome.tif")
    stack = imageio.read(tmp_path / "a.ome.tif", dataset="1")
    np.testing.assert_array_equal(stack.frames, both[1:])
    assert stack.sampling == pytest.approx(ANGSTROM_PER_PX)


def test_no_scale_in_an_mrc_is_none(tmp_path):
    sample_files.mrc(tmp_path / "a.mrc", stated=False)
    assert imageio.read(tmp_path / "a.mrc").sampling is None


@pytest.mark.parametrize("kind", ["int16", "float32"])
def test_an_mrc_of_a_big_endian_machine(tmp_path, kind):
    data = np.arange(600, dtype=kind).reshape(20, 30)
    sample_files.mrc(tmp_path / "a.mrc", data, (0.01, 0.02), order=">")
    stack = imageio.read(tmp_path / "a.mrc")
    np.testing.assert_array_equal(stack.frames[0], data)
    assert stack.sampling == pytest.approx((0.1, 0.2))


@pytest.mark.parametrize("name", ["a.mrc", "a.dm3", "a.tif", "a.npy", "a.h5", "a.ndata", "a.png"])
def test_an_empty_file_is_called_so(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(StemAeError, match=f"{name} is empty"):
        imageio.read(tmp_path / name)


def test_colours_in_all_layouts_become_grey(tmp_path):
    grey, alpha = IMAGE, np.full_like(IMAGE, 200)
    Image.fromarray(np.stack([grey, alpha], axis=-1), "LA").save(tmp_path / "alpha.png")
    Image.fromarray(np.stack([grey] * 3 + [alpha], axis=-1)).save(tmp_path / "rgba.png")
    palette = Image.fromarray(255 - grey, "P")
    palette.putpalette([255 - level for level in range(256) for _ in range(3)])
    palette.save(tmp_path / "palette.png")
    tifffile.imwrite(tmp_path / "planar.tif", np.stack([grey] * 3), photometric="rgb", planarconfig="separate")
    tifffile.imwrite(tmp_path / "rgba.tif", np.stack([grey] * 3 + [alpha], axis=-1), photometric="rgb")
    tifffile.imwrite(
        tmp_path / "alpha.tif", np.stack([grey, alpha], axis=-1), photometric="minisblack", planarconfig="contig",
        extrasamples=["unassalpha"],
    )  # fmt: skip
    tifffile.imwrite(tmp_path / "white.tif", 255 - grey, photometric="miniswhite")
    np.save(tmp_path / "swift.npy", np.stack([grey] * 3, axis=-1))
    (tmp_path / "swift.json").write_text(json.dumps(swift()))
    names = ("alpha.png", "rgba.png", "palette.png", "planar.tif", "rgba.tif", "alpha.tif", "white.tif", "swift.npy")
    for name in names:
        np.testing.assert_allclose(imageio.read(tmp_path / name).frames, grey[None], err_msg=name)


def test_axes_of_length_one_are_dropped(tmp_path):
    np.save(tmp_path / "a.npy", IMAGE[None, :, None, :, None])
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["image"] = IMAGE[..., None]
        file["table"] = np.zeros((50, 2))
    for name in ("a.npy", "b.h5"):
        np.testing.assert_array_equal(imageio.read(tmp_path / name).frames, IMAGE[None])


# --- which of several -------------------------------------------------------------------------------------------------


def test_detectors_are_picked_by_name_before_number(tmp_path):
    images = {"HAADF": IMAGE, "0": IMAGE[::-1], "BF": IMAGE[:, ::-1]}
    sample_files.velox(tmp_path / "a.emd", images)
    for name, data in images.items():
        np.testing.assert_array_equal(imageio.read(tmp_path / "a.emd", dataset=name).frames[0], data)
    np.testing.assert_array_equal(imageio.read(tmp_path / "a.emd", dataset="2").frames[0], images["BF"])
    assert "no image '7'" in refusal(tmp_path / "a.emd", dataset="7")


def test_two_of_one_name_are_told_apart_by_number(tmp_path):
    with h5py.File(tmp_path / "a.nhdf", "w") as file:
        for k, data in enumerate((IMAGE, IMAGE[::-1])):
            file.create_dataset(f"data/{k}", data=data).attrs["properties"] = json.dumps(swift())
    assert "2 images called 'HAADF'" in refusal(tmp_path / "a.nhdf", dataset="HAADF")
    np.testing.assert_array_equal(imageio.read(tmp_path / "a.nhdf", dataset="1").frames[0], IMAGE[::-1])


def test_what_was_not_measured_is_missing(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("image", data=IMAGE).attrs["_FillValue"] = np.uint8(IMAGE[3, 4])
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, extratags=[(42113, "s", 0, str(IMAGE[3, 4]), True)])
    unmeasured = int(IMAGE[3, 4]) == IMAGE
    for name in ("a.h5", "a.tif"):
        np.testing.assert_array_equal(np.isnan(imageio.read(tmp_path / name).frames[0]), unmeasured)


# --- not images -------------------------------------------------------------------------------------------------------

CUBE = np.random.default_rng(1).integers(0, 9, (20, 24, 36)).astype(np.uint16)
SPECTRA = swift(("nm", "nm", "eV"), (0.01, 0.01, 0.5), 2, 1)
PATTERN = swift(("1/nm", "1/nm"))


@pytest.mark.parametrize(
    ("name", "write"),
    [("a.npy", sample_files.npy), ("a.ndata1", sample_files.ndata), ("a.h5", sample_files.swift_h5),
     ("a.nhdf", sample_files.nhdf), ("a.tif", sample_files.swift_tiff)],
)  # fmt: skip
def test_swifts_spectra_and_patterns_are_no_images(tmp_path, name, write):
    write(tmp_path / name, CUBE, dict(SPECTRA))
    assert "holds no image, only a spectrum image 20x24x36" in refusal(tmp_path / name)
    write(tmp_path / name, CUBE[0], swift(("nm", "eV"), (0.01, 0.5), 1, 1))
    assert "only a line of spectra 24x36" in refusal(tmp_path / name)
    write(tmp_path / name, CUBE[0], dict(PATTERN))
    assert "its axes are in 1/nm: a diffraction pattern" in refusal(tmp_path / name)
    write(tmp_path / name, CUBE[0], swift(("rad", "rad"), (1e-3, 1e-3)))
    assert "its axes are in rad: a diffraction pattern" in refusal(tmp_path / name)
    write(tmp_path / name, CUBE, swift(("s", "nm", "nm"), (1.0, 0.01, 0.01), sequence=True))
    np.testing.assert_array_equal(imageio.read(tmp_path / name).frames, CUBE)


@pytest.mark.parametrize("module", ["hspy", "zspy"])
def test_hyperspys_spectra_and_patterns_are_no_images(tmp_path, module):
    for k, (data, units, navigate, words) in enumerate([
        (CUBE, ["nm", "nm", "eV"], [True, True, False], "a spectrum image 20x24x36"),
        (CUBE[0], ["nm", "eV"], [True, False], "a line of spectra 24x36"),
        (CUBE[0], "1 / nm", [False, False], "1 / nm: a diffraction pattern"),
        (CUBE, ["nm", "mrad", "mrad"], [True, False, False], "no image"),
        (CUBE, ["eV", "nm", "nm"], [True, False, False], "one of its axes is in eV"),
    ]):  # fmt: skip
        path = tmp_path / f"{k}.{module}"
        sample_files.rosettasciio(module, path, data, (1.0,) * data.ndim, units, navigate)
        assert words in refusal(path)


def test_other_formats_patterns_are_no_images(tmp_path):
    sample_files.velox(tmp_path / "a.emd", unit="1/m", pixel=(1e17, 1e17))
    sample_files.ncem(tmp_path / "b.emd", units="[n_m^-1]")
    sample_files.imagej(tmp_path / "c.tif", unit="1/nm")
    sample_files.nsid(tmp_path / "d.h5", units=("1/nm", "1/nm"), types=("RECIPROCAL", "RECIPROCAL"))
    sample_files.universal(tmp_path / "e.h5", unit="mrad")
    for name in ("a.emd", "b.emd", "c.tif", "d.h5", "e.h5"):
        assert "a diffraction pattern, not an image" in refusal(tmp_path / name), name


def test_pycroscopys_spectra_are_no_images(tmp_path):
    sample_files.nsid(tmp_path / "a.h5", CUBE, ("nm", "nm", "eV"), (1.0, 1.0, 1.0), "SPECTRAL_IMAGE", ("SPATIAL",) * 3)
    assert "only a spectrum image" in refusal(tmp_path / "a.h5")


@pytest.mark.parametrize(
    ("data", "words"),
    [(np.zeros((0, 24, 36)), "holds no frames"), (np.zeros(100), "holds no image, only"), (np.zeros((40, 3)), "only"),
     (np.zeros((3, 3, 24, 36)), "4 dimensions"), (np.zeros((24, 36), complex), "complex"), (np.float64(3), "only")],
)  # fmt: skip
def test_arrays_that_are_no_images(tmp_path, data, words):
    np.save(tmp_path / "a.npy", data)
    assert words in refusal(tmp_path / "a.npy")


def test_a_tiff_without_pages_holds_no_image(tmp_path, capfd):
    (tmp_path / "nothing.tif").write_bytes(b"II*\0\0\0\0\0" + bytes(200))
    assert "holds no image" in refusal(tmp_path / "nothing.tif")
    assert capfd.readouterr().err == ""


# --- nothing is read that need not be, nothing executed, nothing followed ---------------------------------------------


def test_a_large_neighbour_is_not_read(tmp_path):
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["haadf"] = IMAGE
        file.create_dataset("datacube", (256, 256, 512, 512), np.uint16, chunks=(1, 1, 512, 512))  # 34 GB
        file.create_dataset("movie", (100_000, 2048, 2048), np.uint16, chunks=(1, 512, 512))
    tracemalloc.start()
    np.testing.assert_array_equal(imageio.read(tmp_path / "scan.h5", dataset="haadf").frames[0], IMAGE)
    movie = imageio.open_images(tmp_path / "scan.h5", dataset="movie")
    assert movie.frames[99_999].shape == (2048, 2048)
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()
    assert "more than can be read at once" in refusal(tmp_path / "scan.h5", dataset="movie")


def test_headers_that_claim_too_much_are_refused(tmp_path):
    with (tmp_path / "a.npy").open("wb") as stream:
        np.lib.format.write_array_header_1_0(
            stream, {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)}
        )
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_dataset("image", (10**6, 10**6), np.float64, chunks=(1000, 1000))
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file.create_dataset("image", (20_000, 20_000), np.float64, chunks=(20_000, 20_000), compression="gzip")
    sample_files.mrc(tmp_path / "d.mrc")
    damaged = bytearray((tmp_path / "d.mrc").read_bytes())
    damaged[0:8] = (10**6).to_bytes(4, "little") * 2
    (tmp_path / "d.mrc").write_bytes(damaged)
    for name in ("a.npy", "b.h5", "c.h5", "d.mrc"):
        refusal(tmp_path / name)


def test_pipes_devices_and_folders_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.npy")
    os.mkfifo(tmp_path / "a.json")
    (tmp_path / "folder.npy").mkdir()
    np.save(tmp_path / "a.npy", IMAGE)
    for path, words in ((tmp_path / "pipe.npy", "pipe"), ("/dev/zero", "device"), (tmp_path / "folder.npy", "folder")):
        assert words in refusal(path)
    assert imageio.read(tmp_path / "a.npy").sampling is None


def test_links_to_other_files_are_not_followed(tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["image"] = IMAGE
    (tmp_path / "secret.raw").write_bytes(IMAGE.tobytes())
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["image"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "image")
    with h5py.File(tmp_path / "storage.h5", "w") as file:
        file.create_dataset("image", IMAGE.shape, IMAGE.dtype, external=str(tmp_path / "secret.raw"))
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        layout = h5py.VirtualLayout(IMAGE.shape, IMAGE.dtype)
        layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "image", IMAGE.shape)
        file.create_virtual_dataset("image", layout)
    sample_files.rosettasciio("hspy", tmp_path / "hyperspy.hspy", IMAGE)
    with h5py.File(tmp_path / "hyperspy.hspy", "a") as file:
        del file["Experiments/HAADF/data"]
        file["Experiments/HAADF/data"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "image")
    for name in ("link.h5", "storage.h5", "virtual.h5", "hyperspy.hspy"):
        assert "other files" in refusal(tmp_path / name), name


class Marker:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def test_nothing_is_unpickled(tmp_path):
    import numcodecs

    marker = tmp_path / "executed"
    sample_files.rosettasciio("zspy", tmp_path / "a.zspy", IMAGE)
    objects = np.empty((24, 36), dtype=object)
    objects[:] = None
    group = zarr.open(str(tmp_path / "a.zspy"), mode="a")["Experiments/HAADF"]
    del group["data"]
    group.create_dataset("data", data=objects, object_codec=numcodecs.Pickle(), chunks=(24, 36))
    (chunk,) = [path for path in (tmp_path / "a.zspy/Experiments/HAADF/data").rglob("*") if path.name[0].isdigit()
                and path.is_file()]  # fmt: skip
    chunk.write_bytes(pickle.dumps(Marker(marker)))
    assert "pickle" in refusal(tmp_path / "a.zspy")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        opaque = np.void(pickle.dumps(Marker(marker)))
        file.create_dataset("image", data=np.full((24, 36), opaque, dtype=opaque.dtype))
        file.create_dataset("objects", (24, 36), h5py.vlen_dtype(np.uint8))
        file["image"].attrs["properties"] = opaque
    refusal(tmp_path / "b.h5")
    np.save(tmp_path / "c.npy", np.array([[Marker(marker)]]), allow_pickle=True)
    refusal(tmp_path / "c.npy")
    (tmp_path / "d.npy").write_bytes(pickle.dumps(Marker(marker)))
    refusal(tmp_path / "d.npy")
    assert not marker.exists()
    with pytest.raises(StemAeError):
        imageio.read(evaluating(tmp_path, marker))
    assert not marker.exists()


def evaluating(folder, marker):
    """Write a netCDF file whose attributes RosettaSciIO would evaluate as Python."""
    from scipy.io import netcdf_file

    path = folder / "e.nc"
    with netcdf_file(path, "w") as file:
        file.history = f"open({str(marker)!r}, 'w')"
        file.createDimension("x", 24)
        file.createVariable("data_cube", "f4", ("x",))[:] = 0
    return path


def test_a_zspy_folder_does_not_lead_out_of_itself(tmp_path):
    sample_files.rosettasciio("zspy", tmp_path / "a.zspy", IMAGE)
    chunk = next(path for path in (tmp_path / "a.zspy/Experiments/HAADF/data").rglob("0") if path.is_file())
    chunk.rename(tmp_path / "elsewhere")
    chunk.symlink_to(tmp_path / "elsewhere")
    assert "links to other files" in refusal(tmp_path / "a.zspy")


def test_readers_do_not_talk_to_the_terminal(tmp_path):
    """Warnings and logs of the readers are not for users: everything is in the one sentence."""
    sample_files.velox(tmp_path / "a.emd")
    with h5py.File(tmp_path / "a.emd", "a") as file:
        del file[f"Data/Image/{0:032d}/Metadata"]
    script = "import sys\nfrom stem_ae import imageio\ntry: imageio.read(sys.argv[1])\nexcept ValueError as e: print(e)"
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "a.emd")], capture_output=True, text=True, timeout=100
    )
    assert done.stderr == ""
    assert "Cannot read a.emd" in done.stdout


@pytest.mark.parametrize("suffix", ["mrc", "ali", "rec"])
@pytest.mark.parametrize("size", [(36, 2097176, 33554433), (2**31 - 1,) * 3, (-3, -3, 4), (12, 8, 2), (12, 8, -1)])
def test_a_header_that_promises_more_than_the_file_holds_is_refused_at_once(tmp_path, suffix, size):
    header = np.zeros(256, "<i4")
    header[:4] = (12, 8, 1, 2)  # columns, rows, sections of float32
    header[52] = int.from_bytes(b"MAP ", "little")
    image = np.random.default_rng(0).poisson(20, (8, 12)).astype("<f4")
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(header.tobytes() + image.tobytes())
    np.testing.assert_array_equal(imageio.read(path).frames[0], image)
    header[:3] = size
    path.write_bytes(header.tobytes() + image.tobytes())
    with pytest.raises(StemAeError, match="numbers, which do not fit into it"):
        imageio.read(path)
