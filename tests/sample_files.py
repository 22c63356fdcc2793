"""Small valid files of every kind that stem_ae reads, written here: for tests of reading them, whole and damaged."""

from __future__ import annotations

import importlib
import json
import struct
import zipfile

import h5py
import numpy as np
import tifffile
from PIL import Image

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 250, (24, 36)).astype(np.uint8)
NM_PER_PX = (0.008, 0.012)
ANGSTROM_PER_PX = (0.08, 0.12)


def rosettasciio(module, path, data=IMAGE, scales=NM_PER_PX, units="nm", navigate=None, title="HAADF", **options):
    """Write with RosettaSciIO; ``units`` one for all axes or one each, ``navigate`` which axes number signals."""
    scales = (1.0,) * (data.ndim - len(scales)) + tuple(scales)
    units = [units] * data.ndim if isinstance(units, str) or units is None else units
    navigate = [True] * (data.ndim - 2) + [False, False] if navigate is None else navigate
    axes = [
        {"name": "tzyx"[k - data.ndim], "size": size, "scale": scales[k], "offset": 0.0, "units": units[k],
         "navigate": navigate[k], "index_in_array": k, "_type": "UniformDataAxis"}
        for k, size in enumerate(data.shape)
    ]  # fmt: skip
    signal = {
        "data": data, "axes": axes, "metadata": {"General": {"title": title}, "Signal": {"signal_type": ""}},
        "original_metadata": {}, "package_info": {}, "attributes": {"_lazy": False}, "learning_results": {},
        "models": None, "tmp_parameters": {},
    }  # fmt: skip
    importlib.import_module(f"rsciio.{module}").file_writer(str(path), signal, **options)


def swift(units=("nm", "nm"), scales=NM_PER_PX, collection=0, datum=2, sequence=False, title="HAADF"):
    """Return what Nion Swift writes beside data."""
    return {
        "version": 1, "title": title, "is_sequence": sequence, "collection_dimension_count": collection,
        "datum_dimension_count": datum,
        "spatial_calibrations": [
            {"offset": -1.0, "scale": scale, "units": unit} for scale, unit in zip(scales, units, strict=True)
        ],
    }  # fmt: skip


def npy(path, data=IMAGE, properties=None):
    np.save(path, data)
    if properties is not None:
        path.with_suffix(".json").write_text(json.dumps(properties))


def ndata(path, data=IMAGE, properties=None):
    array = path.with_suffix(".array.npy")
    np.save(array, data)
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(array, "data.npy")
        archive.writestr("metadata.json", json.dumps(swift() if properties is None else properties))
    array.unlink()


def swift_h5(path, data=IMAGE, properties=None):
    """Write a data item of a project's folder."""
    properties = {"data_source": swift() if properties is None else properties}
    properties["data_source"]["dimensional_calibrations"] = properties["data_source"].pop("spatial_calibrations")
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=data).attrs["properties"] = json.dumps(properties)


def nhdf(path, data=IMAGE, properties=None):
    """Write what Swift exports since 16.12."""
    described = swift() if properties is None else dict(properties)
    described["dimensional_calibrations"] = described.pop("spatial_calibrations")
    with h5py.File(path, "w") as file:
        file.create_group("index").attrs["1"] = json.dumps({"type": "display_item"})
        file.create_dataset("data/0", data=data).attrs["properties"] = json.dumps(described)


def swift_tiff(path, data=IMAGE, properties=None):
    """Write as Swift's TIFF exporter does: for ImageJ, with its own description beside."""
    described = swift() if properties is None else properties
    tifffile.imwrite(path, data, imagej=True, metadata={"nion.1": json.dumps(described)})


def velox(path, images=None, pixel=NM_PER_PX, unit="m", spectra=False, chunks=None):
    """Write a Velox file: images by their detectors; with ``spectra`` an empty spectrum image beside them."""
    with h5py.File(path, "w") as file:
        file["Version"] = np.array([json.dumps({"format": "Velox", "version": "11"}).encode()], dtype=object).astype(
            h5py.string_dtype()
        )
        for k, (detector, data) in enumerate((images or {"HAADF": IMAGE}).items()):
            group = file.create_group(f"Data/Image/{k:032d}")
            group.create_dataset("Data", data=data[..., None], chunks=chunks)
            described = {
                "BinaryResult": {
                    "PixelSize": {"height": pixel[0] * 1e-9, "width": pixel[1] * 1e-9}, "PixelUnitX": unit,
                    "PixelUnitY": unit, "DetectorIndex": "0", "Offset": {"x": 0.0, "y": 0.0},
                },
                "Detectors": {"Detector-0": {"DetectorName": detector, "DetectorType": "ScanningDetector"}},
                "Core": {"MetadataDefinitionVersion": "7.9"}, "Instrument": {}, "Acquisition": {}, "Optics": {},
                "EnergyFilter": {}, "Stage": {}, "Scan": {}, "Vacuum": {}, "Sample": {}, "CustomProperties": {},
                "Operations": {},
            }  # fmt: skip
            text = json.dumps(described).encode()
            column = np.zeros((len(text) + 100, 1), np.uint8)
            column[: len(text), 0] = np.frombuffer(text, np.uint8)
            group["Metadata"] = column
        if spectra:
            for name in ("SpectrumImage", "SpectrumStream"):
                file.create_group(f"Data/{name}/0")
            file.create_group("Displays/ImageDisplay")


def mrc(path, data=IMAGE, scales=NM_PER_PX, stated=True, order="<"):
    """Write the 2014 standard's header and the numbers."""
    modes = {"uint8": 0, "int16": 1, "float32": 2, "uint16": 6}
    frames = data.reshape(-1, *data.shape[-2:])
    n, rows, columns = frames.shape
    header = bytearray(1024)
    struct.pack_into(f"{order}4i", header, 0, columns, rows, n, modes[str(data.dtype)])
    if stated:
        cell = 10 * columns * scales[1], 10 * rows * scales[0], 1.0
        struct.pack_into(f"{order}3i3f", header, 28, columns, rows, n, *cell)
    struct.pack_into(f"{order}3f3i", header, 52, 90.0, 90.0, 90.0, 1, 2, 3)
    header[208:212], header[212:216] = b"MAP ", b"DA\0\0" if order == "<" else b"\x11\x11\0\0"
    path.write_bytes(bytes(header) + frames.astype(frames.dtype.newbyteorder(order)).tobytes())


def universal(path, data=IMAGE, unit="nm"):
    """Write pycroscopy's USID: one number for each position of a scan."""
    rows, columns = np.indices(data.shape).reshape(2, -1)
    with h5py.File(path, "w") as file:
        main = file.create_dataset("Measurement_000/Channel_000/Raw_Data", data=data.reshape(-1, 1))
        group = main.parent
        tables = {
            "Position_Indices": np.column_stack([columns, rows]).astype(np.uint32),
            "Position_Values": np.column_stack([columns * NM_PER_PX[1], rows * NM_PER_PX[0]]).astype(np.float32),
            "Spectroscopic_Indices": np.zeros((1, 1), np.uint32), "Spectroscopic_Values": np.zeros((1, 1), np.float32),
        }  # fmt: skip
        for name, table in tables.items():
            group[name] = table
            group[name].attrs["labels"] = ["X", "Y"] if name.startswith("P") else ["none"]
            group[name].attrs["units"] = [unit, unit] if name.startswith("P") else ["a.u."]
            main.attrs[name] = group[name].ref


def nsid(path, data=IMAGE, units=("nm", "nm"), scales=NM_PER_PX, kind="IMAGE", types=("SPATIAL", "SPATIAL")):
    """Write pycroscopy's newer NSID: an array with a scale of HDF5's for each axis."""
    with h5py.File(path, "w") as file:
        main = file.create_dataset("Measurement_000/Channel_000/image/image", data=data)
        main.attrs["data_type"] = kind
        for k, (size, scale, unit, type_) in enumerate(zip(data.shape, scales, units, types, strict=True)):
            axis = main.parent.create_dataset("tzyx"[k - data.ndim], data=np.arange(size) * scale)
            axis.attrs.update({"units": unit, "dimension_type": type_, "quantity": "distance"})
            axis.make_scale("tzyx"[k - data.ndim])
            main.dims[k].attach_scale(axis)


def ncem(path, data=IMAGE, units="[n_m]", scales=NM_PER_PX):
    """Write NCEM's EMD: x before y, as its own programs do."""
    with h5py.File(path, "w") as file:
        file.attrs.update({"version_major": 0, "version_minor": 2})
        group = file.create_group("data/HAADF")
        group.attrs["emd_group_type"] = 1
        group["data"] = data.T
        for k, (size, scale) in enumerate(zip(data.shape[::-1], scales[::-1], strict=True), start=1):
            axis = group.create_dataset(f"dim{k}", data=np.arange(size) * scale)
            axis.attrs.update({"name": "xy"[k - 1], "units": units})


def imagej(path, data=IMAGE, unit="nm", scales=NM_PER_PX):
    tifffile.imwrite(path, data, imagej=True, resolution=(1 / scales[1], 1 / scales[0]), metadata={"unit": unit})


def ome(path, data=IMAGE, unit="nm", scales=NM_PER_PX, axes="YX", **more):
    size = {"PhysicalSizeX": scales[1], "PhysicalSizeY": scales[0]}
    size |= {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit} if unit else {}
    tifffile.imwrite(path, data, ome=True, metadata={"axes": axes, **size, **more})


def digital_micrograph(path, data=IMAGE, units="nm", scales=NM_PER_PX):
    """Write DM3 or DM4 with Nion Swift's own exporter, which has to be installed."""
    from nion.data import Calibration, DataAndMetadata
    from nionswift_plugin.DM_IO import dm3_image_utils

    axes = [Calibration.Calibration(0.0, scale, units) for scale in scales]
    xdata = DataAndMetadata.new_data_and_metadata(data.astype(np.float32), dimensional_calibrations=axes)
    with path.open("wb") as stream:
        dm3_image_utils.save_image(xdata, stream, int(path.suffix[-1]))


def png(path, data=IMAGE):
    Image.fromarray(data).save(path)


CALIBRATED = {
    "a.hspy": lambda path: rosettasciio("hspy", path, IMAGE.astype(np.float32)),
    "a.zspy": lambda path: rosettasciio("zspy", path, IMAGE.astype(np.float32)),
    "zipped.zspy": lambda path: rosettasciio("zspy", path, IMAGE.astype(np.float32), store_type="zip"),
    "a.tif": lambda path: rosettasciio("tiff", path, IMAGE.astype(np.float32)),
    "a.hdf5": lambda path: rosettasciio("hspy", path, IMAGE.astype(np.float32)),
    "a.npy": lambda path: npy(path, IMAGE, swift()),
    "a.ndata1": ndata,
    "a.ndata": ndata,
    "item.h5": swift_h5,
    "a.nhdf": nhdf,
    "swift.tif": swift_tiff,
    "velox.emd": velox,
    "spectra.emd": lambda path: velox(path, spectra=True),
    "chunked.emd": lambda path: velox(path, spectra=True, chunks=(24, 36, 1)),
    "ncem.emd": ncem,
    "a.mrc": mrc,
    "a.ali": mrc,
    "usid.h5": universal,
    "nsid.h5": nsid,
    "nsid.hf5": nsid,
    "imagej.tif": imagej,
    "a.ome.tif": ome,
}
"""Writers of :data:`IMAGE` at :data:`NM_PER_PX`, by the file's name."""

PLAIN = {
    "plain.npy": npy,
    "plain.tif": lambda path: tifffile.imwrite(path, IMAGE),
    "plain.png": png,
    "plain.bmp": png,
    "plain.h5": lambda path: h5py.File(path, "w").create_dataset("image", data=IMAGE).file.close(),
    "stack.npy": lambda path: npy(path, np.stack([IMAGE, IMAGE[::-1]])),
    "stack.tif": lambda path: tifffile.imwrite(path, np.stack([IMAGE, IMAGE[::-1]]), imagej=True),
}
"""Writers of files that state no sampling."""
