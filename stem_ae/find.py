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
from stem_ae.errors import StemAeError

if TYPE_CHECKING:
    from stem_ae.elit import Prediction
    from stem_ae.imageio import ImageStack

def add_parsers(subparsers: Any) -> None:
    """Add ``find`` to the command line."""
    parser = subparsers.add_parser(
        "find",
        help="find the atoms in an image file",
        description="Find and classify the atoms in an image file; write them as CSV and extended XYZ, with a picture "
        "and the ensemble's uncertainty map.",
    )
    option = parser.add_argument
    option("image", type=pathlib.Path, metavar="IMAGE", help="dm3, dm4, tif, hspy, emd, hdf5, npy, png, ...")
    option("--model", required=True, metavar="NAME", help="a model's name (see stem-ae models) or its file")
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
    value : (float, float)
        Å per pixel, ``(y, x)``.
    source : str
        Where it came from, in words.
    warning : str
        What speaks against it; empty if nothing does.
    """

    value: tuple[float, float]
    source: str
    warning: str = ""


def choose_sampling(
    image: ArrayLike, stated: tuple[float, float] | None, source: str, material: str | float, measure: bool = False
) -> Sampling:
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

    Raises
    ------
    StemAeError
        If there is neither a stated sampling nor a clear lattice.
    """
    from stem_ae.elit.calibrate import estimate_sampling
    from stem_ae.elit.live import CERTAIN_LATTICE, CONFIDENT_LATTICE, TOLERANCE

    measured, confidence = estimate_sampling(image, material) if material else (0.0, 0.0)
    if stated is None or measure:
        if not confidence >= CONFIDENT_LATTICE:
            reason = "its lattice is not clear enough to measure it" if material else "the model knows no lattice"
            raise StemAeError(f"The sampling is {source} and {reason}: give it with --sampling, in Å per pixel.")
        return Sampling(as_sampling(measured), f"measured from the lattice, confidence {confidence:.2f}")
    warning = ""
    if confidence >= CERTAIN_LATTICE and abs(measured / np.mean(stated) - 1) > TOLERANCE:
        warning = (
            f"{stated[1]:.4f} Å/px is {source}, but the lattice looks like {measured:.4f}: is the calibration wrong "
            "(--sampling lattice), or is this another material?"
        )
    return Sampling(stated, source, warning)


def run(arguments: argparse.Namespace) -> int:
    """Find the atoms in every wanted frame and write what was found."""
    from stem_ae import elit, imageio

    measure = arguments.sampling == "lattice"
    stack = imageio.read(
        arguments.image,
        dataset=arguments.dataset,
        sampling=None if measure else parse_sampling(arguments.sampling),
    )
    numbers = frame_numbers(stack, arguments.frame)
    ensemble = elit.load(arguments.model)
    first = stack.frames[numbers[0]]
    sampling = choose_sampling(
        first, stack.sampling, stack.sampling_source, ensemble.description.lattice_constant, measure
    )
    arguments.output.mkdir(parents=True, exist_ok=True)
    answer: dict[str, Any] = {
        "image": str(arguments.image),
        "model": {"name": ensemble.name, "version": ensemble.version},
        "sampling": {"angstrom_per_px": sampling.value, "source": sampling.source, "warning": sampling.warning},
        "frames": [],
    }
    if sampling.warning:
        warn(sampling.warning)
    say = (lambda line: None) if arguments.json else print
    say(f"{stack.name}: {sampling.value[1]:.4f} Å/px, {sampling.source}")
    for number in numbers:
        prediction = ensemble.predict(stack.frames[number], sampling=sampling.value, threshold=arguments.threshold)
        name = stack.name if len(stack.frames) == 1 else f"{stack.name}_frame{number:03d}"
        title = f"{name}   {ensemble.name} {ensemble.version}"
        files = write(arguments.output, name, stack.frames[number], prediction, title, sampling)
        counts = prediction.atoms.counts()
        origin = {name: answer[name] for name in ("image", "model", "sampling")} | {
            "frame": number, "image_sha256": hashlib.sha256(stack.frames[number].tobytes()).hexdigest(),
        }  # fmt: skip
        files["provenance"] = files["csv"].with_suffix(".json")
        files["provenance"].write_text(json.dumps(origin, indent=1), encoding="utf-8")
        answer["frames"].append(
            {
                "frame": number,
                "atoms": len(prediction.atoms),
                "counts": counts,
                "novelty": float(prediction.novelty),
                "foreign": prediction.foreign.round(3).tolist(),
                "files": {kind: str(path) for kind, path in files.items()},
            }
        )
        if prediction.conditions > 1:
            warn(f"frame {number} is unlike what the model knows (novelty {prediction.conditions:.2f})")
        if foreign := len(prediction.foreign):
            warn(f"frame {number} has columns too bright or too dim for any known class ({foreign}): another element?")
        found = ", ".join(f"{count} {species}" for species, count in counts.items())
        say(f"frame {number}: {found}; novelty {prediction.novelty:.2f}; {', '.join(map(str, files.values()))}")
    if arguments.json:
        print(json.dumps(answer))
    return 0


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


def frame_numbers(stack: ImageStack, wanted: int | None) -> list[int]:
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

    note = f"{sampling.value[1]:.4f} Å/px, {sampling.source}" + (f"; {sampling.warning}" if sampling.warning else "")
    atoms, uncertainty = prediction.atoms, prediction.uncertainty
    figure = picture.found(image, atoms, uncertainty, title, note)
    return {
        "csv": atoms.write(folder / f"{name}_atoms.csv"),
        "extxyz": atoms.write(folder / f"{name}_atoms.extxyz"),
        "picture": picture.save(figure, folder / f"{name}_atoms.png"),
        "uncertainty": picture.save_map(folder / f"{name}_uncertainty.tif", uncertainty, atoms.sampling),
    }
