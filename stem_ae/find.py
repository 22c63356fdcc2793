"""``stem-ae find``: the atoms of an image file."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import pathlib
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stem_ae.atoms import as_sampling
from stem_ae.checks import probability
from stem_ae.errors import StemAeError
from stem_ae.files import output_folder, whole
from stem_ae.unforeseen import in_a_sentence

if TYPE_CHECKING:
    from stem_ae.elit import Ensemble, Prediction
    from stem_ae.elit.trust import Trust
    from stem_ae.imageio import ImageFile, ImageStack


_RING_WIDTHS = 1.5
"""Radius of a ring in widths of a column, where the model reads them."""


def add_parsers(subparsers: Any) -> None:
    """Add ``find`` to the command line."""
    parser = subparsers.add_parser(
        "find",
        help="find the atoms in an image file",
        description="Find and classify the atoms in an image file; write them as CSV and extended XYZ, with a picture "
        "and the ensemble's uncertainty map. A frame of a series that cannot be used is named and left out; the exit "
        "code is then 1.",
    )
    option = parser.add_argument
    formats = "dm3, dm4, mrc, emd, hspy, tif, png, npy, hdf5, Swift's ndata1, nhdf and h5, ..."
    option("image", type=pathlib.Path, metavar="IMAGE", help=formats)
    option(
        "--model", default="any", metavar="NAME",
        help="a model's name (see stem-ae models) or its file; default: any, which finds the columns of any material "
        "and needs no sampling",
    )  # fmt: skip
    option("--sampling", metavar="Å/PX", help="Å per pixel; 'y,x' for oblong pixels; or 'lattice': measure it")
    option("--dataset", metavar="NAME", help="which image of a file that holds several: its name or number")
    option("--frame", type=int, metavar="N", help="only this frame of a series, from 0 (default: every one)")
    option("--threshold", type=float, default=0.5, metavar="P", help="least probability of an atom (%(default)s)")
    option("--output", type=pathlib.Path, default=pathlib.Path(), metavar="FOLDER", help="where to write (default: .)")
    option("--json", action="store_true", help="print the answer as JSON")
    parser.set_defaults(run=run)


@dataclasses.dataclass(frozen=True)
class Sampling:
    """The sampling that is used and why.

    Attributes
    ----------
    value : (float, float) or None
        Å per pixel, ``(y, x)``; None: nobody knows it, and positions are in pixels.
    source : str
        Where it came from, in words.
    warning : str
        What speaks against it; empty if nothing does.
    lattice, clarity : float, optional
        Å per pixel by the lattice, and how clearly that is seen, 0 to 1; ``None`` for a model without a lattice.
    """

    value: tuple[float, float] | None
    source: str
    warning: str = ""
    lattice: float | None = None
    clarity: float | None = None

    def __str__(self) -> str:
        if self.value is None:
            return f"sampling {self.source}: positions are in pixels"
        return f"{self.value[1]:.4f} Å/px, {self.source}"


def choose_sampling(
    image: ArrayLike, stated: tuple[float, float] | None, source: str, material: str | float, measure: bool = False,
    needed: bool = True,
) -> Sampling:  # fmt: skip
    """Decide on the sampling of an image: what is stated, checked against the lattice, or the lattice's.

    Parameters
    ----------
    image : (H, W) array
        The frame to measure the lattice in.
    stated : (float, float) or None
        Å per pixel, ``(y, x)``, from file or user.
    source : str
        Where that came from, in words.
    material : str or float
        Known material, or lattice constant in Å (0: none known).
    measure : bool
        Take the lattice's word over the stated one.
    needed : bool
        Whether the model needs one; otherwise none is fine, too.

    Raises
    ------
    StemAeError
        If there is neither a stated sampling nor a clear lattice.
    """
    from stem_ae.elit.calibrate import estimate_sampling
    from stem_ae.elit.live import CONFIDENT_LATTICE
    from stem_ae.elit.trust import CERTAIN_LATTICE, TOLERANCE

    if stated is None and not measure and not needed:
        return Sampling(None, source)
    measured, confidence = estimate_sampling(image, material) if material else (0.0, 0.0)
    opinion = (measured, confidence) if material else (None, None)
    if stated is None or measure:
        if not confidence >= CONFIDENT_LATTICE:
            reason = "its lattice is not clear enough to measure it" if material else "the model knows no lattice"
            raise StemAeError(f"The sampling is {source} and {reason}: give it with --sampling, in Å per pixel.")
        return Sampling(as_sampling(measured), f"measured from the lattice, confidence {confidence:.2f}", "", *opinion)
    warning = ""
    if confidence >= CERTAIN_LATTICE and abs(measured / np.mean(stated) - 1) > TOLERANCE:
        warning = (
            f"{stated[1]:.4f} Å/px is {source}, but the lattice looks like {measured:.4f}: is the calibration wrong "
            "(--sampling lattice), or is this another material?"
        )
    return Sampling(stated, source, warning, *opinion)


def run(arguments: argparse.Namespace) -> int:
    """Find the atoms in every wanted frame and write what was found; 1 if a frame of a series had to be skipped."""
    from stem_ae import elit, imageio

    threshold = probability(arguments.threshold, "--threshold")
    measure = arguments.sampling == "lattice"
    stated = None if measure else parse_sampling(arguments.sampling)
    file = imageio.open_images(arguments.image, dataset=arguments.dataset, sampling=stated)
    numbers = frame_numbers(file, arguments.frame)
    folder = output_folder(arguments.output)
    for number in numbers:
        refuse_foreign(folder / f"{frame_name(file, number)}_atoms.json", file, arguments.image)
    search = Search(arguments.image, file, elit.load(arguments.model), threshold, folder, measure, arguments.json)
    for number in numbers:
        search.look_at(number)
    return search.finish()


class Search:
    """What is found in the frames of one file, and what had to be left out.

    Parameters
    ----------
    path : path
        The file.
    file : ImageFile
        The same, opened.
    ensemble : Ensemble
        Who looks.
    threshold : float
        Least probability of an atom.
    folder : path
        Where to write.
    measure : bool
        Take the lattice's word for the sampling.
    as_json : bool
        Print one JSON object at the end, not lines as frames are done.
    """

    def __init__(
        self, path: pathlib.Path, file: ImageFile, ensemble: Ensemble, threshold: float, folder: pathlib.Path,
        measure: bool, as_json: bool,
    ) -> None:  # fmt: skip
        self.path, self.file, self.ensemble = path, file, ensemble
        self.threshold, self.folder, self.measure, self.as_json = threshold, folder, measure, as_json
        self.sampling: Sampling | None = None
        self.frames: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        self.skipped: list[tuple[int, StemAeError]] = []

    def look_at(self, number: int) -> None:
        """Find the atoms of one frame and write them; an unusable frame is reported and left out."""
        try:
            image = self.file.frames[number]
            sampling = self.sampling or self._sampling_from(image)
            prediction = self.ensemble.predict(image, sampling=sampling.value, threshold=self.threshold)
            name = frame_name(self.file, number)
            title = f"{name}   {self.ensemble.name} {self.ensemble.version}"
            files = write(self.folder, name, image, prediction, title, sampling)
        except Exception as error:  # whatever is wrong with this frame, the others are kept
            reason = in_a_sentence(error)
            self.skipped.append((number, reason))
            if len(self.file.frames) > 1:
                self._warn(f"frame {number}: {reason}")
            return
        self._keep(number, image, prediction, files)

    def _sampling_from(self, image: NDArray[np.float64]) -> Sampling:
        """Decide on the sampling of the series, from its first frame that can be used."""
        constant = self.ensemble.description.lattice_constant
        sampling = choose_sampling(
            image, self.file.sampling, self.file.sampling_source, constant, self.measure, self.ensemble.scale is None
        )  # fmt: skip
        if self.ensemble.scale is not None and sampling.value is not None:
            sampling = dataclasses.replace(sampling, warning=self.ensemble.doubt_of_sampling(image, sampling.value))
        self.sampling = sampling
        if self.sampling.warning:
            self._warn(self.sampling.warning)
        self._say(f"{self.file.name}: {self.sampling}")
        return self.sampling

    def _keep(
        self, number: int, image: NDArray[np.float64], prediction: Prediction, files: dict[str, pathlib.Path]
    ) -> None:
        """Write the provenance of the atoms, and report them."""
        counts = prediction.atoms.counts()
        origin = self._origin() | {
            "path": str(self.path.resolve()), "frame": number,
            "image_sha256": hashlib.sha256(image.tobytes()).hexdigest(),
        }  # fmt: skip
        files["provenance"] = files["csv"].with_suffix(".json")
        with whole(files["provenance"]) as part:
            part.write_text(json.dumps(origin, indent=1), encoding="utf-8")
        trust = self._trust_in(prediction)
        self.frames.append(
            {
                "frame": number,
                "atoms": len(prediction.atoms),
                "counts": counts,
                "novelty": float(prediction.novelty),
                "foreign": prediction.foreign.round(3).tolist(),
                "believed": trust.believed,
                "doubt": trust.sentence,
                "files": {kind: str(path) for kind, path in files.items()},
            }
        )
        if trust.sentence:
            self._warn(f"frame {number}: {trust.sentence}")
        found = ", ".join(f"{count} {species}" for species, count in counts.items())
        paths = ", ".join(map(str, files.values()))
        self._say(f"frame {number}: {found}; novelty {prediction.novelty:.2f}; {paths}")

    def _trust_in(self, prediction: Prediction) -> Trust:
        """Return whether what was found in a frame can be believed."""
        from stem_ae.elit.trust import Evidence, trust_in

        assert self.sampling is not None  # a frame has been used
        evidence = Evidence.of(prediction, self.sampling.lattice, self.sampling.clarity)
        return trust_in(evidence, self.ensemble.lattice_constant)

    def finish(self) -> int:
        """Print the answer if it is wanted as JSON, and return the exit code.

        Raises
        ------
        StemAeError
            If no frame could be used.
        """
        if not self.frames:
            reason = self.skipped[0][1]
            if len(self.file.frames) == 1:
                raise reason
            raise StemAeError(f"No frame of {self.path.name} could be used; of the first: {reason}")
        if self.as_json:
            print(json.dumps(self._origin() | {"frames": self.frames, "warnings": self.warnings,
                                               "skipped": [number for number, _ in self.skipped]}))  # fmt: skip
        return 1 if self.skipped else 0

    def _origin(self) -> dict[str, Any]:
        assert self.sampling is not None  # a frame has been used
        return {
            "image": str(self.path),
            "dataset": self.file.dataset,
            "model": {"name": self.ensemble.name, "version": self.ensemble.version},
            "sampling": {
                "angstrom_per_px": self.sampling.value, "source": self.sampling.source,
                "warning": self.sampling.warning,
            },
        }  # fmt: skip

    def _say(self, line: str) -> None:
        if not self.as_json:
            print(line, flush=True)

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
        warn(text)


def frame_name(file: ImageFile, number: int) -> str:
    """Return what the files of one frame are called, without suffix."""
    return file.name if len(file.frames) == 1 else f"{file.name}_frame{number:03d}"


def refuse_foreign(provenance: pathlib.Path, file: ImageFile, path: pathlib.Path) -> None:
    """Raise StemAeError if the output would overwrite another image's atoms."""
    try:
        there = json.loads(provenance.read_bytes())
        other = (there["path"], there["dataset"])
    except (OSError, ValueError, KeyError, TypeError):  # nothing is there, or nothing of ours
        return
    if other != (str(path.resolve()), file.dataset):
        raise StemAeError(
            f"{provenance.parent} holds the atoms of another image called {provenance.stem.removesuffix('_atoms')} "
            f"({other[0]}): choose another --output."
        )


def warn(text: str) -> None:
    """Tell the user, apart from the answer."""
    print(f"stem-ae: warning: {text}", file=sys.stderr)


def parse_sampling(text: str | None) -> tuple[float, float] | None:
    """Return what stands after ``--sampling``, Å per pixel as ``(y, x)``.

    Raises
    ------
    StemAeError
        If it is not one or two positive numbers.
    """
    if text is None:
        return None
    try:
        return as_sampling([float(word) for word in text.split(",")])
    except ValueError as error:
        raise StemAeError(f"--sampling takes Å per pixel, such as 0.104 or 0.104,0.102, not {text!r}.") from error


def frame_numbers(stack: ImageStack | ImageFile, wanted: int | None) -> list[int]:
    """Return the frames to look at.

    Raises
    ------
    StemAeError
        If the wanted one is not there.
    """
    if wanted is None:
        return list(range(len(stack.frames)))
    if not 0 <= wanted < len(stack.frames):
        raise StemAeError(f"There is no frame {wanted}: the file holds {len(stack.frames)}, counted from 0.")
    return [wanted]


def write(
    folder: pathlib.Path,
    name: str,
    image: NDArray[np.float64],
    prediction: Prediction,
    title: str,
    sampling: Sampling,
) -> dict[str, pathlib.Path]:
    """Write atoms, picture and uncertainty map; return the files by kind."""
    from stem_ae import picture

    note = f"{sampling}; {sampling.warning}" if sampling.warning else str(sampling)
    atoms, uncertainty = prediction.atoms, prediction.uncertainty
    radius = _RING_WIDTHS * prediction.width if prediction.width else picture.RING_RADIUS
    figure = picture.found(image, atoms, uncertainty, title, note, radius)
    return {
        "csv": atoms.write(folder / f"{name}_atoms.csv"),
        "extxyz": atoms.write(folder / f"{name}_atoms.extxyz"),
        "picture": picture.save(figure, folder / f"{name}_atoms.png"),
        "uncertainty": picture.save_map(folder / f"{name}_uncertainty.tif", uncertainty, atoms.sampling),
    }
