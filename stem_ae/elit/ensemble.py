"""The ensemble: several networks, one answer, and how much they disagree."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors import safe_open
from safetensors.torch import save as to_bytes
from scipy.spatial import cKDTree
from threadpoolctl import ThreadpoolController
from torch import Tensor

from stem_ae.atoms import Atoms2D, as_sampling
from stem_ae.checks import probability
from stem_ae.classify import Classes, classified
from stem_ae.defects import Defect, find_defects
from stem_ae.elit import model_file
from stem_ae.elit.calibrate import estimate_sampling
from stem_ae.elit.inference import Answer, Inference, Precision
from stem_ae.elit.likelihood import Fit, fit
from stem_ae.elit.network import UNet
from stem_ae.elit.novelty import Familiar, Signs, signs
from stem_ae.elit.peaks import find_atoms
from stem_ae.elit.posterior import Posterior
from stem_ae.elit.prediction import Prediction, presence
from stem_ae.elit.preprocess import (
    LARGEST_SIDE,
    Blank,
    Image,
    as_image,
    refuse_small_field,
    repair,
    standardised,
    to_working_grid,
    without_blank,
)
from stem_ae.elit.refocus import Refocus
from stem_ae.elit.scale import Scale
from stem_ae.elit.scale_network import ScaleNet, read_scale
from stem_ae.elit.scan_lines import without_jitter
from stem_ae.errors import StemAeError
from stem_ae.reconstruct import Reconstruction, reconstruct
from stem_ae.torch_device import DeviceName, device_of

_MAY_BE_NAN = ("familiar.brightness.usual",)  # of classes of which too few were seen
_SEEN = 0.5  # probability of being there from which on an atom counts
_FEWEST_TO_FIT = 6  # atoms: fewer do not tell the probe from the background
NOMINAL_WIDTH = 0.5
"""Å: the nominal width of a column for a model that reads the scale, whatever the true width is."""
_WIDTHS = (0.25, 1.6)  # Å: columns are no narrower and no wider, where the sampling is known
_UNHEARD_OF = 1e-4  # probability of all possible widths, below which a stated sampling is doubted
_LEAST_HEIGHT = 0.15  # of a peak, if it stands among others
_EASIER, _HARDER = 0.5, 1.4  # powers: a height of 0.25 is even odds in a crystal, one of 0.61 elsewhere
_COMPANY, _CROWD, _SEEN_FOR_SURE = 4.6, 4, 0.52  # Å, columns, height: see in_company
_BEYOND = 0.05  # Å outside the frame, beyond its error, from which on only the tails of a column are seen


@dataclasses.dataclass(frozen=True)
class Description:
    """What goes with an ensemble's weights.

    Attributes
    ----------
    name : str
        What users pick.
    species : tuple of str
        Classes, in order.
    sampling : float
        Å per pixel at which the networks work.
    lattice_constant : float
        Å; 0 where the material has none to calibrate with.
    width : int
        Channels of the first level.
    material : str
        Key of :data:`stem_ae.elit.materials.MATERIALS`, if it is one of them.
    posterior : Posterior
        How the networks' positions and the likelihood's are weighed, learnt on simulated frames.
    refocus : Refocus, optional
        What frames of today's microscope pass through before the networks see them, unless they read them better as
        they are.
    provenance : dict
        Where it came from: seed, recipe, conditions, parent version, figures.
    """

    name: str
    species: tuple[str, ...]
    sampling: float
    lattice_constant: float
    width: int
    material: str = ""
    posterior: Posterior = dataclasses.field(default_factory=Posterior)
    refocus: Refocus | None = None
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class _Reading:
    """What the networks make of a frame."""

    frame: Image  # as they see it, on the working grid
    answer: Answer
    atoms: Atoms2D
    signs: Signs


class Ensemble:
    """Networks that were trained apart and answer together.

    Parameters
    ----------
    members : sequence of UNet
        Trained networks.
    description : Description
        Their common facts.
    familiar : Familiar, optional
        What training frames look like to the networks; without it, nothing is novel.
    scale : ScaleNet, optional
        Reads the width of the columns in an image, whose sampling need not be known then.
    device : str
        Where the networks compute, and are trained further: ``"cpu"``, ``"cuda"``, or ``"auto"``.
    precision : str, optional
        ``"float32"`` or ``"bfloat16"``, of the networks' arithmetic; unless it is given, the first on a CPU, the
        second on a GPU.
    """

    def __init__(
        self,
        members: Sequence[UNet],
        description: Description,
        familiar: Familiar | None = None,
        device: DeviceName = "cpu",
        precision: Precision | None = None,
        scale: ScaleNet | None = None,
    ) -> None:
        if not members:
            raise StemAeError("An ensemble needs at least one trained network.")
        self.members = tuple(member.eval() for member in members)
        self.description = description
        self.familiar = familiar
        self.scale = scale.eval() if scale is not None else None
        self.device = device_of(device)
        self.precision: Precision | None = precision

    @property
    def name(self) -> str:
        """What users pick."""
        return self.description.name

    @property
    def species(self) -> tuple[str, ...]:
        """Classes that the ensemble tells apart."""
        return self.description.species

    @property
    def sampling(self) -> float:
        """Å per pixel at which the networks work."""
        return self.description.sampling

    @property
    def lattice_constant(self) -> float:
        """Å, of its material's hexagonal lattice; 0 where it has none to measure a sampling with."""
        return self.description.lattice_constant

    @property
    def version(self) -> str:
        """Twelve hexadecimal digits that stand for everything that decides the answer: weights and statistics."""
        statistics = json.dumps(dataclasses.asdict(self.description.posterior))
        if self.description.refocus is not None:
            statistics += json.dumps(dataclasses.asdict(self.description.refocus))
        return hashlib.sha256(to_bytes(self._tensors(), metadata={"posterior": statistics})).hexdigest()[:12]

    def __len__(self) -> int:
        """Return how many networks it has."""
        return len(self.members)

    def replace(self, **changes: Any) -> Ensemble:
        """Return an ensemble that is made of the same but for these arguments of the constructor.

        ``ensemble.replace(device="cuda")`` is the same ensemble on a GPU.

        Raises
        ------
        StemAeError
            If PyTorch cannot compute on the device.
        """
        same: dict[str, Any] = {
            "members": self.members, "description": self.description, "familiar": self.familiar,
            "device": self.device.type, "precision": self.precision, "scale": self.scale,
        }  # fmt: skip
        return Ensemble(**(same | changes))

    def subset(self, members: Sequence[int]) -> Ensemble:
        """Return the ensemble of some of the members, by their numbers; nothing is computed or copied.

        Raises
        ------
        StemAeError
            If no member is named, or one that does not exist.
        """
        strange = [k for k in members if not 0 <= k < len(self)]
        if strange or not members:
            raise StemAeError(f"Name at least one of the members 0 to {len(self) - 1}: {list(members)} are not that.")
        provenance = {"members_of": {"version": self.version, "members": list(members)}} | self.description.provenance
        return self.replace(
            members=[self.members[k] for k in members],
            description=dataclasses.replace(self.description, provenance=provenance),
            familiar=self.familiar.of_members(members) if self.familiar is not None else None,
        )

    @property
    def needs_sampling(self) -> bool:
        """Whether :meth:`predict` needs the sampling; otherwise it reads the scale from the image."""
        return self.scale is None

    def predict(
        self,
        image: ArrayLike,
        sampling: float | tuple[float, float] | None = None,
        threshold: float = 0.5,
        refine: bool = True,
        classes: Classes = "network",
    ) -> Prediction:
        """Find and classify the atoms of one frame.

        Parameters
        ----------
        image : (H, W) array
            Any real numbers; only contrast matters.
        sampling : float or (float, float), optional
            Å per pixel, ``(y, x)`` if two. Models that read the scale (``"any"``) do without: positions are then in
            pixels, and ``atoms.sampling`` is None.
        threshold : float
            Smallest probability of being an atom at all.
        refine : bool
            Whether positions are fitted to the electrons; without, they are the networks'.
        classes : str or Examples
            Who classifies the atoms: the ``"network"``, a mixture of their ``"intensity"``, their ``"neighbours"``, or
            examples.

        Returns
        -------
        Prediction

        Raises
        ------
        StemAeError
            If the image or the sampling cannot be used.
        """
        array, unit = standardised(image)
        array = repair(array)
        step = None if sampling is None else as_sampling(sampling)
        threshold = probability(threshold, "The least probability of an atom")
        with _products().limit(limits=1, user_api="blas"):
            if self.scale is not None:
                prediction = self._predicted_at_own_scale(array, step, threshold, refine, classes)
            elif step is not None:
                prediction, _ = self._predicted(array, step, threshold, refine, classes)
            else:
                raise StemAeError(
                    f"The model {self.name!r} needs the sampling: give it in Å per pixel, or use the model 'any'."
                )
        return prediction if unit == 1.0 else prediction.brighter(unit)

    def read_scale(self, image: ArrayLike, sampling: float | tuple[float, float] | None = None) -> Scale:
        """Return the width of an image's columns in pixels; a known sampling limits the possible widths.

        Raises
        ------
        StemAeError
            If the image cannot be used, or this is a model of one material, which needs the sampling.
        """
        if self.scale is None:
            raise StemAeError(f"The model {self.name!r} does not read the scale: give the sampling in Å per pixel.")
        return self._scale_of(repair(as_image(image)), None if sampling is None else as_sampling(sampling))

    def _scale_of(self, array: Image, sampling: tuple[float, float] | None) -> Scale:
        assert self.scale is not None
        scale = read_scale(self.scale, array)
        if sampling is None:
            return scale
        refuse_small_field(array.shape, sampling)
        narrowest, widest = _widths_px(sampling)
        if widest < scale.widths[0]:
            raise StemAeError(
                f"At {sampling[1]:.4g} Å per pixel a column is far narrower than a pixel, and atoms are not resolved: "
                "check the sampling."
            )
        return scale.within(narrowest, widest)

    def doubt_of_sampling(self, image: ArrayLike, sampling: float | tuple[float, float]) -> str:
        """Return what speaks against a stated sampling, for models that read the scale; empty if nothing does."""
        seen = self.read_scale(image)
        narrowest, widest = _widths_px(as_sampling(sampling))
        inside = (seen.widths >= narrowest) & (seen.widths <= widest)
        if seen.probability[inside].sum() > _UNHEARD_OF:
            return ""
        found = seen.width / widest * _WIDTHS[1]
        return (
            f"at this sampling the columns look {found:.2g} Å wide (standard deviation), and columns are "
            f"{_WIDTHS[0]:g} to {_WIDTHS[1]:g} Å: is the calibration, or its unit, wrong?"
        )

    def _predicted_at_own_scale(
        self, array: Image, sampling: tuple[float, float] | None, threshold: float, refine: bool, classes: Classes
    ) -> Prediction:
        """Estimate the columns' width, predict as if it were the nominal one, and convert the result to Å or pixels."""
        scale = self._scale_of(array, sampling)
        aspect = np.array(sampling or (1.0, 1.0))
        aspect = aspect / np.sqrt(aspect.prod())

        width = scale.width
        _refuse_too_many(array.shape, float(aspect.max()) * NOMINAL_WIDTH / width / self.sampling, width)
        dy, dx = (aspect * NOMINAL_WIDTH / width).tolist()
        seen, fitted = self._predicted(array, (dy, dx), _LEAST_HEIGHT, refine, "network")
        judged = in_company(seen.atoms.positions, seen.presence)
        sure = judged >= threshold
        # There is one class: columns are told apart by their brightness.
        atoms = classified(seen.atoms[sure], "intensity" if classes == "network" else classes, array)
        prediction = dataclasses.replace(seen, atoms=atoms, judged=judged[sure])
        unit = width / NOMINAL_WIDTH * (1.0 if sampling is None else float(np.sqrt(np.prod(sampling))))
        return prediction.rescaled(unit, sampling, scale, fitted * unit)

    def _predicted(
        self, array: Image, step: tuple[float, float], threshold: float, refine: bool, classes: Classes
    ) -> tuple[Prediction, float]:
        """Return the prediction, and the width of the columns as fitted, in Å (the nominal one if nothing is)."""
        width = NOMINAL_WIDTH
        array, empty = without_blank(array, step)
        reading = self._reading(array, step, threshold, empty)
        answer, atoms = reading.answer, reading.atoms
        if refine and len(atoms) >= _FEWEST_TO_FIT:
            atoms, width = self._refined(array, atoms)
            atoms = _outside(empty, atoms)
        atoms = classified(atoms, classes, array)
        prediction = Prediction(answer.mean[1:], answer.spread, self.sampling, atoms, *self._novelty(reading.signs))
        return prediction, width

    def _reading(
        self, array: Image, step: tuple[float, float], threshold: float, empty: Blank | None = None
    ) -> _Reading:
        """Read a frame: through the refocus if there is one, unless more atoms can be counted on without."""
        as_it_is = self._read(array, step, threshold, False, empty)
        if self.description.refocus is None:
            return as_it_is
        return max(as_it_is, self._read(array, step, threshold, True, empty), key=self._counted_on)

    def _counted_on(self, reading: _Reading) -> float:
        """Return how many atoms are to be expected where the networks see them."""
        heights = presence(reading.answer.mean[1:], self.sampling, reading.atoms)
        return float(heights[heights > _SEEN].sum())

    def _read(
        self, array: Image, step: tuple[float, float], threshold: float, refocused: bool, empty: Blank | None = None
    ) -> _Reading:
        """Read a frame; where it is empty there are no atoms."""
        refocus = self.description.refocus if refocused else None
        frame = to_working_grid(array if refocus is None else refocus(array, step), step, self.sampling)
        answer = self._inference.answer(frame)
        probability = answer.mean[1:]
        least = min(threshold, _SEEN)
        peaks = _outside(empty, find_atoms(probability, self.species, self.sampling, array, step, least))
        heights = presence(probability, self.sampling, peaks)
        # The novelty was learnt with these atoms, whatever threshold is asked for.
        seen = peaks[heights > _SEEN]
        shown = signs(frame, self.sampling, answer.deep, probability, answer.spread, seen)
        return _Reading(frame, answer, peaks[heights > threshold], shown)

    def _novelty(self, shown: Signs) -> tuple[float, NDArray[np.float64]]:
        """Return how novel a frame's conditions are, and its foreign atoms; see :class:`Prediction`."""
        if self.familiar is None:
            return 0.0, np.zeros((0, 3))
        conditions, foreign = self.familiar.novelty(shown)
        return conditions, np.column_stack([shown.seen.atoms.positions, foreign])[foreign > 1]

    def look(
        self, image: ArrayLike, sampling: float | tuple[float, float], refocused: bool | None = None
    ) -> tuple[Signs, Atoms2D]:
        """Return what a frame shows (see :mod:`stem_ae.elit.novelty`), and the atoms where the networks see them.

        Through the ensemble's refocus or not; unless it is said, as :meth:`predict` does.
        """
        step = as_sampling(sampling)
        array, empty = without_blank(repair(as_image(image)), step)
        with _products().limit(limits=1, user_api="blas"):
            if refocused is None:
                reading = self._reading(array, step, _SEEN, empty)
            else:
                reading = self._read(array, step, _SEEN, refocused, empty)
        return reading.signs, reading.atoms

    def seen(self, image: ArrayLike, sampling: float | tuple[float, float]) -> Image:
        """Return a frame as the networks see it: on the working grid, refocused if they read it better so."""
        step = as_sampling(sampling)
        array, _ = without_blank(repair(as_image(image)), step)
        if self.description.refocus is None:
            return to_working_grid(array, step, self.sampling)
        return self._reading(array, step, _SEEN).frame

    def find_defects(self, prediction: Prediction) -> list[Defect]:
        """Return the defects that a prediction shows; see :func:`stem_ae.defects.find_defects`."""
        return find_defects(prediction)

    def reconstruct(self, image: ArrayLike) -> Reconstruction:
        """Return a frame with less noise; see :func:`stem_ae.reconstruct.reconstruct`."""
        return reconstruct(repair(as_image(image)))

    def _refined(self, image: Image, atoms: Atoms2D) -> tuple[Atoms2D, float]:
        """Return the atoms with positions, covariances and intensities from the electrons, line jitter taken off.

        Also the width of the probe in Å.
        """

        def combined(fitted: Fit, shift: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
            seen = atoms.positions - np.column_stack([shift, np.zeros(len(shift))])
            return self.description.posterior.combine(
                seen, fitted.positions, fitted.covariance, fitted.converged, atoms.labels
            )

        fitted, positions, covariance = without_jitter(fit(image, atoms.step, atoms.positions), combined)
        dy, dx = atoms.step
        last = np.array([(atoms.shape[1] - 1) * dx, (atoms.shape[0] - 1) * dy])
        inside = np.clip(positions, 0, last)
        beyond = np.maximum(-fitted.positions, fitted.positions - last)
        deviation = np.sqrt(np.maximum(np.diagonal(fitted.covariance, axis1=1, axis2=2), 0.0))  # not all converge
        in_view = (beyond < _BEYOND + deviation).all(axis=1)
        area = 2 * np.pi * float(np.sqrt(np.linalg.det(fitted.probe)))
        refined = dataclasses.replace(
            atoms, positions=inside, covariance=covariance, intensity=fitted.amplitude * area
        )
        return refined[in_view], fitted.sigma

    def estimate_sampling(self, image: ArrayLike) -> tuple[float, float]:
        """Measure the sampling from the lattice of the material that this ensemble knows.

        See :func:`stem_ae.elit.calibrate.estimate_sampling`: Å per pixel, and a confidence from 0 to 1.
        """
        return estimate_sampling(image, self.description.lattice_constant or self.name)

    def member_probabilities(self, frame: Image) -> NDArray[np.float32]:
        """Return what each member says of a frame on the working grid: probabilities, class 0 is the background.

        Returns
        -------
        (M, 1 + C, h, w) array
        """
        return self._inference.each(frame)

    @functools.cached_property
    def _inference(self) -> Inference:
        return Inference(self.members, self.device, self.precision)

    # --- files ------------------------------------------------------------------------------------------------------

    def _tensors(self) -> dict[str, Tensor]:
        weights = {
            f"{k}.{name}": tensor.contiguous()
            for k, member in enumerate(self.members)
            for name, tensor in member.state_dict().items()
        }
        if self.scale is not None:
            weights |= {f"scale.{name}": tensor.contiguous() for name, tensor in self.scale.state_dict().items()}
        return weights | (self.familiar.tensors() if self.familiar is not None else {})

    def save(self, path: str | pathlib.Path) -> pathlib.Path:
        """Write weights and description to one safetensors file."""
        path = pathlib.Path(path)
        facts = {"format": model_file.FORMAT, "members": len(self.members), **dataclasses.asdict(self.description)}
        partial = path.with_suffix(".partial")
        partial.write_bytes(to_bytes(self._tensors(), metadata={"stem_ae": json.dumps(facts)}))
        partial.replace(path)
        return path

    @classmethod
    def read(cls, path: str | pathlib.Path) -> Ensemble:
        """Read what :meth:`save` wrote.

        Raises
        ------
        StemAeError
            If the file is missing or holds something else.
        """
        path = pathlib.Path(path)
        header = model_file.read_header(path)
        try:
            model_file.check_shapes(header, _shapes_of_a_network)
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in header.shapes}
            for name, tensor in tensors.items():
                if name not in _MAY_BE_NAN and not bool(torch.isfinite(tensor).all()):
                    raise StemAeError(f"{name} holds numbers that are not finite.")
            familiar = Familiar.from_tensors(tensors)
            if familiar is not None:
                familiar.check(header.members, 4 * header.width, len(header.species))
            refocus = Refocus.from_dict(header.refocus)
            scale = _scale_network(tensors)
        except StemAeError as error:
            raise StemAeError(f"The model file {path.name} is damaged or was made by hand: {error}") from error
        description = Description(
            header.name, header.species, header.sampling, header.lattice_constant, header.width, header.material,
            Posterior(**header.posterior), refocus, dict(header.provenance),
        )  # fmt: skip
        members = []
        for k in range(header.members):
            member = UNet(len(header.species), header.width)
            prefix = f"{k}."
            member.load_state_dict({n[len(prefix) :]: t for n, t in tensors.items() if n.startswith(prefix)})
            members.append(member)
        return cls(members, description, familiar, scale=scale)


def _widths_px(sampling: tuple[float, float]) -> tuple[float, float]:
    """Return how narrow and how wide columns can be, in pixels."""
    step = float(np.sqrt(np.prod(sampling)))
    return _WIDTHS[0] / step, _WIDTHS[1] / step


def _refuse_too_many(shape: tuple[int, ...], working: float, width: float) -> None:
    """Raise StemAeError if an image has more columns than can be looked at; ``working`` grid points to a pixel."""
    if max(shape) * working > LARGEST_SIDE:
        raise StemAeError(
            f"The image has {shape[1]} x {shape[0]} pixels, and its columns look only {width:.2g} pixels wide: these "
            "are too many to be found at once, so take a smaller region."
        )


def _scale_network(tensors: Mapping[str, Tensor]) -> ScaleNet | None:
    """Return the network that reads the scale, if there is one."""
    own = {name.removeprefix("scale."): tensor for name, tensor in tensors.items() if name.startswith("scale.")}
    if not own:
        return None
    network = ScaleNet()
    wanted = {name: tensor.shape for name, tensor in network.state_dict().items()}
    if {name: tensor.shape for name, tensor in own.items()} != wanted:
        raise StemAeError("the network that reads the scale has another shape than it should.")
    network.load_state_dict(own)
    return network


def _shapes_of_a_network(classes: int, width: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each of a network's tensors; no memory is asked for."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in UNet(classes, width).state_dict().items()}


def in_company(positions: NDArray[np.float64], heights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probability that each column is there, ``(N,)``, from the height of its peak and its surroundings.

    In a crystal every column has others around it, and a faint one is where one has to be; a single atom on a support
    has to stand out from thousands of grains that look like faint atoms.

    Parameters
    ----------
    positions : (N, 2) array
        In Å, where a column is of the nominal width.
    heights : (N,) array
        Of the peaks in the networks' probability, 0 to 1.
    """
    if not len(positions):
        return heights
    tree = cKDTree(positions[heights > _SEEN_FOR_SURE].reshape(-1, 2))
    around = np.array([len(near) for near in tree.query_ball_point(positions, _COMPANY)])
    others = around - (heights > _SEEN_FOR_SURE)
    power = np.where(others >= _CROWD, _EASIER, _HARDER)
    judged: NDArray[np.float64] = np.clip(heights, 0.0, 1.0) ** power
    return judged


def _outside(empty: Blank | None, atoms: Atoms2D) -> Atoms2D:
    """Return the atoms that lie where the frame is not empty."""
    if empty is None or not len(atoms):
        return atoms
    column, row = np.rint(atoms.positions_px).astype(int).T
    last = np.array(empty.shape) - 1
    return atoms[~empty[np.clip(row, 0, last[0]), np.clip(column, 0, last[1])]]


@functools.cache
def _products() -> ThreadpoolController:
    """Return the hold on NumPy's and SciPy's matrix products: with threads, so many small ones take twice the time."""
    return ThreadpoolController()
