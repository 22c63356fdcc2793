"""Every format: the same numbers and the same Å per pixel come back, and what is no image says so."""

import asyncio
import importlib
import json
import zipfile

import h5py
import numpy as np
import pytest
import tifffile
from PIL import Image

from stem_ae import StemAeError, imageio

IMAGE = np.random.default_rng(0).integers(0, 250, (24, 36)).astype(np.uint8)


def write_rosettasciio(module, path, data, scale, units):
    navigate = [True] * (data.ndim - 2) + [False, False]
    axes = [
        {"name": "zyx"[k - data.ndim], "size": size, "scale": scale[k], "offset": 0.0, "units": units,
         "navigate": navigate[k], "index_in_array": k, "_type": "UniformDataAxis"}
        for k, size in enumerate(data.shape)
    ]  # fmt: skip
    signal = {
        "data": data, "axes": axes, "metadata": {"General": {"title": "HAADF"}, "Signal": {"signal_type": ""}},
        "original_metadata": {}, "package_info": {}, "attributes": {"_lazy": False}, "learning_results": {},
        "models": None, "tmp_parameters": {},
    }  # fmt: skip
    importlib.import_module(f"rsciio.{module}").file_writer(str(path), signal)


@pytest.mark.parametrize(
    ("suffix", "module"), [("hspy", "hspy"), ("zspy", "zspy"), ("tif", "tiff"), ("hdf5", "hspy")]
)
def test_calibrated_files_keep_numbers_and_sampling(tmp_path, suffix, module):
    path = tmp_path / f"image.{suffix}"
    write_rosettasciio(module, path, IMAGE.astype(np.float32), (0.008, 0.012), "nm")
    stack = imageio.read(path)
    np.testing.assert_array_equal(stack.frames, IMAGE[None])
    assert stack.sampling == pytest.approx((0.08, 0.12), rel=1e-4)
    assert stack.sampling_source == f"stated in image.{suffix}"


def test_a_series_keeps_its_frames(tmp_path):
    movie = np.stack([IMAGE, IMAGE[::-1], IMAGE.T[:24, :24].repeat(2, axis=1)[:, :36]]).astype(float)
    write_rosettasciio("hspy", tmp_path / "movie.hspy", movie, (1, 10.0, 10.0), "pm")
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
        ("notes.docx", b"", "No reader knows"),
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
