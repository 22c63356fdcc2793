"""What stays: live maps, and snapshots in the project and in files."""

from __future__ import annotations

import dataclasses
import datetime
import json
import pathlib
import re
import typing

import numpy as np
from nion.data import Calibration, DataAndMetadata
from nion.swift import DocumentController
from nion.swift.model import DataItem, DataStructure, DocumentModel
from numpy.typing import NDArray

from stem_ae import __version__
from stem_ae.atoms import Atoms2D
from stem_ae.elit import live
from stem_ae.errors import StemAeError
from stem_ae.microscope import swift

from . import showing

METADATA_KEY = "stem_ae"
ATOMS_TYPE = "stem_ae.atoms"
MAP_LIMIT = 0.2  # standard deviation that is shown brightest; 0.5 is the most there can be


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a live frame comes from."""

    title: str
    """Such as ``"HAADF"`` or the title of the displayed image."""
    metadata: dict[str, typing.Any]
    timestamp: datetime.datetime
    """UTC."""
    channel: swift.ScanChannel | None = None
    """The scan channel that the frame came through, if it was one."""
    reference: str = ""
    """Key of the reference to the data item that shows that channel's frames."""
    data_item: DataItem.DataItem | None = None
    """The displayed image, if it was one."""
    image: typing.Hashable = None
    """Stands for the image: a live scan's frames of one field of view are one image, a displayed image is its data."""

    @property
    def is_part(self) -> bool:
        """Whether it is a sub-scan, which has an image of its own."""
        return self.metadata.get("scan", {}).get("subscan_fractional_size") is not None

    def shown_by(self, document_model: DocumentModel.DocumentModel) -> DataItem.DataItem | None:
        """Return the data item that shows the frame, if there is one (now)."""
        return document_model.get_data_item_reference(self.reference).data_item if self.reference else self.data_item


def _calibrated(
    image: NDArray[typing.Any], sampling: live.Sampling, **values: typing.Any
) -> DataAndMetadata.DataAndMetadata:
    """Return an image with the sampling in Swift's usual unit, the nanometre, if it is known."""
    steps = sampling.angstrom_per_px
    calibrations = [Calibration.Calibration(0.0, step / 10, "nm") for step in steps] if steps else None
    return DataAndMetadata.new_data_and_metadata(
        np.ascontiguousarray(image, dtype=np.float32), dimensional_calibrations=calibrations, **values
    )


# --- live maps ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class MapKind:
    """What a live map shows."""

    name: str
    title: str
    values: typing.Callable[[live.Result], NDArray[typing.Any] | None]
    """Takes the map out of a result, which may lack it."""
    limits: tuple[float, float] | None = None
    """What is shown darkest and brightest; None: what there is."""
    color_map: str | None = None

    @property
    def reference(self) -> str:
        """Key of the reference to the map's data item."""
        return f"stem_ae_{self.name}"


UNCERTAINTY = MapKind(
    "uncertainty", "Uncertainty of atoms", lambda result: result.prediction.uncertainty, (0.0, MAP_LIMIT), "magma"
)
RECONSTRUCTION = MapKind(
    "reconstruction", "Reconstruction (Gaussian process)",
    lambda result: result.reconstruction.mean if result.reconstruction else None,
)  # fmt: skip
MAP_KINDS = (UNCERTAINTY, RECONSTRUCTION)


def is_map(data_item: DataItem.DataItem) -> bool:
    """Return whether this is a live map."""
    return _kind(data_item) in [kind.name for kind in MAP_KINDS]


def _kind(data_item: DataItem.DataItem) -> str:
    return str(data_item.metadata.get(METADATA_KEY, {}).get("kind", ""))


class LiveMap:
    """A map of the newest frame as a live data item of the project. For the user interface thread.

    It is made when first needed and found again at the next start. If the user deletes it, it is made again.
    """

    def __init__(self, window: DocumentController.DocumentController, kind: MapKind) -> None:
        self.__window = window
        self.__kind = kind
        self.__reference = window.document_model.get_data_item_reference(kind.reference)
        self.__transaction: DocumentModel.Transaction | None = None

    def show(self, result: live.Result) -> None:
        """Show the map of a result, if it has one."""
        values = self.__kind.values(result)
        if values is None:
            return
        if self.__reference.data_item is None:  # the user has deleted it
            self.stop()
        if self.__transaction is None:
            self.__start()
        if item := self.__reference.data_item:
            metadata = {METADATA_KEY: {"kind": self.__kind.name, "of": result.frame.origin.title}}
            xdata = _calibrated(values, result.sampling, metadata=metadata)
            self.__window.document_model._queue_data_item_update(item, xdata)

    def stop(self) -> None:
        """Let go of the data item, which keeps the last map."""
        if self.__transaction:
            self.__transaction.close()
            self.__transaction = None

    def __start(self) -> None:
        item = self.__reference.data_item or self.__make()
        self.__transaction = self.__window.document_model.item_transaction(item)  # written once, when it closes

    def __make(self) -> DataItem.DataItem:
        document_model = self.__window.document_model
        item = DataItem.DataItem(np.zeros((16, 16), np.float32))
        item.title = self.__kind.title
        item.category = "temporary"
        item.metadata = {METADATA_KEY: {"kind": self.__kind.name}}
        document_model.append_data_item(item)
        document_model.setup_channel(self.__kind.reference, item)
        display_item = document_model.get_display_item_for_data_item(item)
        assert display_item
        if channel := display_item.display_data_channel:
            channel.display_limits = self.__kind.limits
            if self.__kind.color_map:
                channel.color_map_id = self.__kind.color_map
        if any(panel.display_panel_type != "empty" for panel in showing.panels(self.__window)):  # the image comes first
            showing.show_in_empty(self.__window, item)
        return item


# --- snapshots ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A frame and what was found in it."""

    result: live.Result
    model: live.Model
    threshold: float

    @property
    def origin(self) -> Origin:
        """Where the frame comes from."""
        return typing.cast(Origin, self.result.frame.origin)

    @property
    def atoms(self) -> Atoms2D:
        """The atoms above the threshold."""
        return self.result.atoms(self.threshold)

    @property
    def provenance(self) -> dict[str, typing.Any]:
        """Everything needed to understand, and repeat, what was found."""
        sampling = self.result.sampling
        return {
            "stem_ae": __version__,
            "source": self.origin.title,
            "time": self.origin.timestamp.replace(tzinfo=datetime.UTC).isoformat(timespec="milliseconds"),
            "model": dataclasses.asdict(self.model) | {"species": list(self.model.species)},
            "parameters": {"threshold": self.threshold},
            "sampling": {
                "angstrom_per_px": sampling.angstrom_per_px and list(sampling.angstrom_per_px),
                "source": sampling.source,
                "confidence": sampling.confidence,
                "by_the_lattice": sampling.lattice,
            },
            "novelty": float(self.result.prediction.novelty),
            "counts": self.atoms.counts(),
        }

    @property
    def name(self) -> str:
        """A name that sorts by time and can be a file's."""
        stem = re.sub(r"\W+", "_", self.origin.title).strip("_")
        return f"{stem}_{self.model.name}_{self.__local_time:%Y%m%d-%H%M%S-%f}"[:-3]

    @property
    def __local_time(self) -> datetime.datetime:
        return self.origin.timestamp.replace(tzinfo=datetime.UTC).astimezone()

    def keep(self, document_model: DocumentModel.DocumentModel) -> DataItem.DataItem:
        """Put frame, atoms and uncertainty into the project and return the frame's data item."""
        title = f"{self.origin.title} atoms {self.__local_time:%H:%M:%S}"
        frame = self.__append(document_model, "frame", title, self.result.pixels, self.origin.metadata)
        self.__append(document_model, "uncertainty", title + " (uncertainty)", self.result.prediction.uncertainty, {})
        document_model.append_data_structure(_structure(self.atoms, frame))
        return frame

    def __append(
        self,
        document_model: DocumentModel.DocumentModel,
        kind: str,
        title: str,
        image: NDArray[typing.Any],
        metadata: dict[str, typing.Any],
    ) -> DataItem.DataItem:
        metadata = metadata | {METADATA_KEY: {"kind": kind} | self.provenance}
        xdata = _calibrated(image, self.result.sampling, metadata=metadata, timestamp=self.origin.timestamp)
        item = DataItem.new_data_item(xdata)
        item.title = title
        document_model.append_data_item(item)
        return item

    def export(self, folder: pathlib.Path) -> list[pathlib.Path]:
        """Write the atoms as CSV and extended XYZ, and the provenance as JSON, and return the paths.

        Raises
        ------
        StemAeError
            If the folder cannot be written to.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            paths = [self.atoms.write(folder / (self.name + suffix)) for suffix in (".csv", ".xyz")]
            paths.append(folder / (self.name + ".json"))
            paths[-1].write_text(json.dumps(self.provenance, indent=1), encoding="utf-8")
        except OSError as error:
            raise StemAeError(f"Cannot write to {folder} ({error.strerror}): choose another folder.") from error
        return paths


def _structure(atoms: Atoms2D, frame: DataItem.DataItem) -> DataStructure.DataStructure:
    """Return the atoms as a point list that goes when the frame goes."""
    structure = DataStructure.DataStructure(structure_type=ATOMS_TYPE, source=frame)
    for field in dataclasses.fields(atoms):
        value = getattr(atoms, field.name)
        value = value.tolist() if isinstance(value, np.ndarray) else value and list(value)
        structure.set_property_value(field.name, value)
    return structure


def is_kept_frame(data_item: DataItem.DataItem) -> bool:
    """Return whether this is the frame of a snapshot."""
    return _kind(data_item) == "frame"


def kept_atoms(document_model: DocumentModel.DocumentModel, frame: DataItem.DataItem) -> Atoms2D | None:
    """Return the atoms that were kept with a snapshot's frame."""
    for structure in document_model.data_structures:
        if structure.structure_type == ATOMS_TYPE and structure.source is frame:
            names = [field.name for field in dataclasses.fields(Atoms2D)]
            return Atoms2D(**{name: structure.get_property_value(name) for name in names})
    return None
