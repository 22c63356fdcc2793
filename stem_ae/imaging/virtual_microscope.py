"""A microscope made of equations: a specimen under a beam, its images, its spectra, and what the beam does to it.

No Swift here: ``nionswift_plugin/stem_ae_sim`` is the device layer that turns controls and scan parameters into
:class:`Beam` and :class:`~stem_ae.imaging.scan_field.ScanField` and asks this class for data. Lengths in Å, and the
specimen's axes have their origin in its middle.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import threading
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from stem_ae import checks
from stem_ae.imaging import adf, damage, diffraction, eels
from stem_ae.imaging.contamination import hydrocarbon
from stem_ae.imaging.distortion import drifted, line_jitter
from stem_ae.imaging.dose import electrons_per_pixel
from stem_ae.imaging.noise import detect
from stem_ae.imaging.probe import AberratedProbe
from stem_ae.imaging.scan_field import ScanField, pixel_centres
from stem_ae.imaging.scattering import Detector, cross_section
from stem_ae.imaging.specimens import Specimen

FloatArray = NDArray[np.float64]

_LAYER_SAMPLING = 0.25  # Å, of the contamination's map
_SUPPORTING_DENSITY = 0.1  # atoms per Å² that carry contamination (graphene has 0.38)
_SPOT = 0.16  # Å: the pixel of a beam at rest, as coarse as images may be
_REACH = 8.0  # Å: atoms farther away have no part in what the beam sees
_MARGIN = 3.0  # Å around the specimen that an image has to be computed for


@dataclasses.dataclass(frozen=True)
class Beam:
    """The column's settings.

    Parameters
    ----------
    energy_ev : float
        Beam energy in eV.
    semiangle_mrad : float
        Convergence semi-angle in mrad.
    current_pa : float
        Beam current in pA.
    defocus, cs : float
        C10 and C30 in Å.
    astigmatism : (float, float)
        C12 in Å, along the specimen's axes.
    """

    energy_ev: float = 60e3
    semiangle_mrad: float = 32.0
    current_pa: float = 200.0
    defocus: float = 0.0
    cs: float = 0.0
    astigmatism: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        checks.positive(self.energy_ev, "The beam energy", 1e7, "eV")
        checks.positive(self.semiangle_mrad, "The convergence angle", 1e3, "mrad")
        checks.number(self.current_pa, "The beam current", 0.0, checks.MOST_PA, "pA")
        for name in ("defocus", "cs"):
            checks.number(getattr(self, name), name, unit="Å")
        checks.place(self.astigmatism, "The astigmatism")

    def electrons(self, seconds: float) -> float:
        """Return how many electrons arrive in a time."""
        return electrons_per_pixel(self.current_pa, seconds * 1e6)

    def probe(self, source_sigma: float, rotation: float = 0.0) -> AberratedProbe:
        """Return the focused beam as a scan turned by ``rotation`` (radians) sees it."""
        turned = complex(*self.astigmatism) * np.exp(-2j * rotation)
        return _probe(
            self.energy_ev, self.semiangle_mrad, self.defocus, self.cs, (turned.real, turned.imag), source_sigma
        )


@functools.lru_cache(maxsize=32)
def _probe(
    energy_ev: float, semiangle: float, defocus: float, cs: float, astigmatism: tuple[float, float], source: float
) -> AberratedProbe:
    """Return one and the same probe for the same settings: it keeps its transfer function."""
    return AberratedProbe(energy_ev, semiangle, defocus, cs, astigmatism, source)


@dataclasses.dataclass(frozen=True)
class Conditions:
    """What the operator cannot set but suffers.

    Parameters
    ----------
    drift : (float, float)
        Of the specimen, x and y in Å/s.
    jitter : float
        RMS displacement of scan lines in Å.
    contamination : float
        Fraction of the specimen under hydrocarbon.
    damage : bool
        Whether the beam ejects atoms and moves dopants.
    source_sigma : float
        Incoherent source size (standard deviation on the specimen) in Å.
    thermal_sigma : float
        Thermal motion of the atoms in projection, standard deviation in Å.
    background : float
        Fraction of the beam that reaches the dark field detector without any specimen.
    readout : float
        Noise of the detector, standard deviation in electrons per pixel.
    """

    drift: tuple[float, float] = (0.0, 0.0)
    jitter: float = 0.0
    contamination: float = 0.0
    damage: bool = True
    source_sigma: float = 0.30
    thermal_sigma: float = 0.06
    background: float = 2e-5
    readout: float = 0.05

    def __post_init__(self) -> None:
        checks.place(self.drift, "The drift")
        for name in ("jitter", "source_sigma", "thermal_sigma", "background", "readout"):
            checks.number(getattr(self, name), name, least=0.0)
        checks.number(self.contamination, "The contamination", 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Rest:
    """A beam that stands still.

    Parameters
    ----------
    field : ScanField
        The scan it is parked in (drift not included).
    fraction : (float, float)
        Where in that scan, x and y.
    beam : Beam
        Its settings.
    """

    field: ScanField
    fraction: tuple[float, float]
    beam: Beam


class VirtualMicroscope:
    """A specimen, the conditions it is looked at under, and the clock and the chance that rule both.

    Thread safe: the scan, two cameras and a panel may use it at once.

    Parameters
    ----------
    specimen : Specimen
        What is under the beam first; see :meth:`load`.
    conditions : Conditions
        Drift, damage and so on; assign to :attr:`conditions` to change them.
    seed : int
        Of every random number.
    clock : callable
        Returns seconds; drift and parked exposure go by it.
    """

    def __init__(
        self,
        specimen: Specimen,
        conditions: Conditions | None = None,
        seed: int = 0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.clock = clock
        self._lock = threading.RLock()
        self._rng = np.random.default_rng(seed)
        self._conditions = conditions or Conditions()
        self._last_frame: ScanFrame | None = None
        self._rest: Rest | None = None
        self._rest_since = clock()
        self.load(specimen)

    # --- specimen and conditions ------------------------------------------------------------------------------------

    def load(self, specimen: Specimen) -> None:
        """Put another specimen in, in the middle of the field; drift and what the beam did start anew."""
        middle = np.array([*specimen.extent, 0.0]) / 2
        with self._lock:
            self._drifted, self._drift_since = np.zeros(2), self.clock()
            self._specimen = specimen.moved(-middle)
            self.ejections: list[damage.Ejection] = []
            self.exchanges: list[damage.Exchange] = []
            self._layer_seed = int(self._rng.integers(2**31))
            self._layer: tuple[float, FloatArray] | None = None

    @property
    def specimen(self) -> Specimen:
        """The atoms that are there now; positions in Å from the specimen's middle."""
        return self._specimen

    @property
    def columns(self) -> tuple[FloatArray, list[str]]:
        """Projected columns ``(M, 2)`` in Å and their names: the ground truth."""
        return _columns(self._specimen)

    @property
    def conditions(self) -> Conditions:
        """What the operator suffers; assigning starts new drift where the old one has led."""
        return self._conditions

    @conditions.setter
    def conditions(self, value: Conditions) -> None:
        with self._lock:
            self.advance()
            self._drifted = self.drift()
            self._drift_since = self.clock()
            self._conditions = value

    def drift(self, at: float | None = None) -> FloatArray:
        """Return how far the specimen has drifted (x, y) in Å, now or at a time of the clock."""
        with self._lock:
            elapsed = (self.clock() if at is None else at) - self._drift_since
            displacement: FloatArray = self._drifted + elapsed * np.asarray(self._conditions.drift)
            return displacement

    def random_seed(self) -> int:
        """Return a seed for somebody else's random numbers, such as a camera's."""
        with self._lock:
            return int(self._rng.integers(2**63))

    # --- imaging ----------------------------------------------------------------------------------------------------

    def begin_frame(self, field: ScanField, shape: tuple[int, int], dwell_us: float, beam: Beam) -> ScanFrame:
        """Return a frame that starts now; ask it for the detectors' counts.

        Parameters
        ----------
        field : ScanField
            Drift not included.
        shape : (int, int)
            ``(H, W)`` in pixels.
        dwell_us : float
            Per pixel, in microseconds.
        beam : Beam
            The column's settings.
        """
        with self._lock:
            self.advance()
            conditions = self._conditions
            jitter = line_jitter(shape[0], conditions.jitter, self._rng) if conditions.jitter else None
            frame = ScanFrame(
                specimen=self._specimen,
                layer=self._contamination(),
                conditions=conditions,
                field=field.moved(self.drift()),
                shape=shape,
                dwell_us=dwell_us,
                beam=beam,
                line_shifts=jitter,
                rng=np.random.default_rng(self._rng.integers(2**63)),
            )
            if self._last_frame is not None and frame.shows_what(self._last_frame):
                frame = dataclasses.replace(frame, images=self._last_frame.images)
            self._last_frame = frame
            return frame

    def _contamination(self) -> FloatArray | None:
        """Carbon atoms per Å² of hydrocarbon, over the specimen's extent."""
        coverage = self._conditions.contamination
        if not coverage:
            return None
        if self._layer is None or self._layer[0] != coverage:
            rng = np.random.default_rng(self._layer_seed)
            self._layer = (coverage, contamination_layer(self._specimen, coverage, rng))
        return self._layer[1]

    def spectrum(self, point: ArrayLike, losses_ev: FloatArray, beam: Beam) -> FloatArray:
        """Return the expected fraction of the beam per energy loss (eV) at a point (Å) of the specimen."""
        width = beam.probe(self._conditions.source_sigma).sigma
        return eels.spectrum(self._specimen, point, losses_ev, beam.energy_ev, width)

    def pattern(self, point: ArrayLike, shape: tuple[int, int], mrad_per_pixel: float, beam: Beam) -> FloatArray:
        """Return the expected fraction of the beam per pixel of a diffraction camera at a point (Å) of the specimen."""
        specimen = self._specimen
        probe = beam.probe(self._conditions.source_sigma)
        shift = diffraction.deflection(specimen, point, probe, beam.energy_ev)
        scattered = diffraction.scattered_fraction(specimen, point, probe.sigma)
        spots = diffraction.bragg_spots(specimen, point, shape, mrad_per_pixel, beam.energy_ev)
        return diffraction.pattern(shape, mrad_per_pixel, beam.semiangle_mrad, shift, scattered, spots)

    # --- what the beam does -----------------------------------------------------------------------------------------

    def rest(self, rest: Rest | None) -> None:
        """Let the beam stand still from now on; None: it is blanked, or scans."""
        with self._lock:
            self.advance()
            self._rest = rest

    def resting_counts(self, detector: Detector, seconds: float) -> float:
        """Return the electrons that a detector counts in a time under the resting beam; dark if there is none.

        What the beam has changed by now counts as if it had been so all the time: ask often.
        """
        with self._lock:
            self.advance()
            rest = self._rest
            conditions = self._conditions
            if rest is None:
                return float(self._rng.normal(0.0, conditions.readout))
            spot = rest.field.moved(self.drift()).part(rest.fraction, np.divide(_SPOT, rest.field.fov))
            x, y = spot.to_specimen((0.5, 0.5))
            near = np.hypot(self._specimen.positions[:, 0] - x, self._specimen.positions[:, 1] - y) < _REACH
            still = dataclasses.replace(conditions, drift=(0.0, 0.0))
            around, dirt = self._specimen[near], self._contamination()
            frame = ScanFrame(around, dirt, still, spot, (1, 1), seconds * 1e6, rest.beam, None, self._rng)
            return float(frame.counts(detector)[0, 0])

    def advance(self) -> None:
        """Bring the specimen up to date: deposit what a beam at rest has delivered since the last time."""
        with self._lock:
            now, since = self.clock(), self._rest_since
            self._rest_since = now
            rest = self._rest
            if rest is None or now <= since:
                return
            # The specimen slides under a parked beam: steps short against the probe.
            travel = float(np.linalg.norm(self._conditions.drift)) * (now - since)
            for start, end in _intervals(since, now, int(np.ceil(travel / 0.1))):
                moved = rest.field.moved(self.drift((start + end) / 2))
                self._expose(moved.to_specimen(rest.fraction), (0.0, 0.0), 0.0, rest.beam, start, end - start)

    def expose_scan(self, frame: ScanFrame, pixels: int) -> None:
        """Deposit the dose of ``pixels`` scanned pixels, spread evenly over the frame's field."""
        seconds = pixels * frame.dwell_us * 1e-6
        with self._lock:
            middle = frame.field.to_specimen((0.5, 0.5))
            self._expose(middle, frame.field.fov, frame.field.rotation, frame.beam, self.clock(), seconds)

    def expose_point(self, field: ScanField, fraction: ArrayLike, beam: Beam, seconds: float) -> None:
        """Deposit one stationary exposure, such as one pixel of a spectrum image, at a position of a scan."""
        with self._lock:
            position = field.moved(self.drift()).to_specimen(fraction)
            self._expose(position, (0.0, 0.0), 0.0, beam, self.clock(), seconds)

    def _expose(
        self, middle: FloatArray, size: tuple[float, float], rotation: float, beam: Beam, start: float, seconds: float
    ) -> None:
        """Play the game of chance: what happens, one after the other, each time with the atoms as they are then."""
        left = beam.electrons(seconds)
        if not self._conditions.damage or left <= 0:
            return
        probe = beam.probe(self._conditions.source_sigma, rotation)
        scan = ScanField(fov=(1.0, 1.0), centre=(float(middle[0]), float(middle[1])), rotation=rotation)
        total = left
        while left > 0:
            events = _possible_events(self._specimen, beam.energy_ev)
            within = scan.to_fraction(self._specimen.positions[events.hit, :2]) - 0.5
            rates = events.barn * damage.BARN * damage.fluence(probe, size, within)
            first = damage.first_event(rates, left, self._rng)
            if first is None:
                return
            event, after = first
            left -= after
            passed = total - left
            self._happen(int(events.hit[event]), int(events.partner[event]), start + seconds * passed / total, passed)

    def _happen(self, hit: int, partner: int, time_s: float, electrons: float) -> None:
        """Change the specimen, and note it."""
        specimen = self._specimen
        place = float(specimen.positions[hit, 0]), float(specimen.positions[hit, 1])
        if partner == damage.LEAVES:
            self.ejections.append(damage.Ejection(time_s, place, int(specimen.numbers[hit]), electrons))
        elif partner == damage.REPLACED:
            self.exchanges.append(damage.Exchange(time_s, place, electrons, None))
        else:
            before = float(specimen.positions[partner, 0]), float(specimen.positions[partner, 1])
            self.exchanges.append(damage.Exchange(time_s, before, electrons, place))
        self._specimen = damage.after_event(specimen, hit, partner)


# A specimen never changes (what an electron has changed is another one): what follows from the last ones is kept.
_columns = functools.lru_cache(maxsize=4)(Specimen.columns)
_possible_events = functools.lru_cache(maxsize=4)(damage.possible_events)


@dataclasses.dataclass(frozen=True, eq=False)
class ScanFrame:
    """One frame: everything that its pixels depend on, fixed when it starts. Made by the microscope.

    ``field`` has the drift at the start in it; ``images`` keeps what was computed, for the frames that show the same.
    """

    specimen: Specimen
    layer: FloatArray | None
    conditions: Conditions
    field: ScanField
    shape: tuple[int, int]
    dwell_us: float
    beam: Beam
    line_shifts: FloatArray | None
    rng: np.random.Generator
    images: dict[Detector, FloatArray] = dataclasses.field(default_factory=dict)

    @property
    def sampling(self) -> tuple[float, float]:
        """Å per pixel, ``(y, x)``."""
        return self.field.sampling(self.shape)

    @property
    def electrons(self) -> float:
        """Electrons per pixel."""
        return self.beam.electrons(self.dwell_us * 1e-6)

    def in_image(self, xy: FloatArray) -> FloatArray:
        """Return where specimen positions appear, ``(N, 2)`` Å from the top-left pixel's centre, drift included."""
        still = self.field.to_image(xy, self.shape)
        velocity = self.field.direction_in_image(self.conditions.drift)
        line_time = self.dwell_us * 1e-6 * self.shape[1]
        return drifted(still, (float(velocity[0]), float(velocity[1])), line_time, self.sampling)

    def truth(self) -> tuple[FloatArray, list[str]]:
        """Return the columns inside the frame: positions ``(M, 2)`` in Å in the image, and names."""
        xy, names = _columns(self.specimen)
        xy = self.in_image(xy)
        dy, dx = self.sampling
        edge = np.array([dx, dy]) / 2
        inside = np.all((xy >= -edge) & (xy < np.multiply(self.shape[::-1], (dx, dy)) - edge), axis=1)
        return xy[inside], [name for name, keep in zip(names, inside, strict=True) if keep]

    def shows_what(self, other: ScanFrame) -> bool:
        """Return whether this frame and another differ in nothing but their noise."""
        unjittered = self.line_shifts is None and other.line_shifts is None
        same = self.specimen is other.specimen and self.layer is other.layer
        settings, others = (
            (frame.conditions, frame.field, frame.shape, frame.dwell_us, frame.beam) for frame in (self, other)
        )
        return unjittered and same and settings == others

    def fraction(self, detector: Detector) -> FloatArray:
        """Return the expected fraction of the beam per pixel, ``(H, W)``."""
        if detector not in self.images:
            image = self._atoms(detector) + self.conditions.background
            if self.layer is not None:
                image += self._carbon_under_beam(self.layer) * float(cross_section(6, detector))
            self.images[detector] = image
        return self.images[detector]

    def counts(self, detector: Detector) -> FloatArray:
        """Return detected electrons per pixel, ``(H, W)``."""
        return detect(self.fraction(detector), self.electrons, self.rng, readout=self.conditions.readout)

    def dark_counts(self, pixels: int) -> FloatArray:
        """Return what the detector reads while the beam is blanked, ``(pixels,)``."""
        return self.rng.normal(0.0, self.conditions.readout, pixels)

    def _atoms(self, detector: Detector) -> FloatArray:
        dy, dx = self.sampling
        image = np.zeros(self.shape)
        xy = self.in_image(self.specimen.positions[:, :2])
        near = np.all((xy > -_REACH) & (xy < np.multiply(self.shape[::-1], (dx, dy)) + _REACH), axis=1)
        xy = xy[near]
        if not len(xy):
            return image
        # Only where the specimen is: a low magnification would be mostly vacuum.
        pixels = xy / (dx, dy)
        margin = np.array([_MARGIN / dx, _MARGIN / dy])
        left, top = np.maximum(np.floor(pixels.min(0) - margin), 0).astype(int)
        right, bottom = np.minimum(np.ceil(pixels.max(0) + margin) + 1, self.shape[::-1]).astype(int)
        if right <= left or bottom <= top:
            return image
        image[top:bottom, left:right] = adf.expected_fraction(
            xy - (left * dx, top * dy),
            cross_section(self.specimen.numbers[near], detector),
            (int(bottom - top), int(right - left)),
            self.sampling,
            self.beam.probe(self.conditions.source_sigma, self.field.rotation),
            blur=self.conditions.thermal_sigma,
            line_shifts=None if self.line_shifts is None else self.line_shifts[top:bottom],
        )
        return image

    def _carbon_under_beam(self, layer: FloatArray) -> FloatArray:
        xy = self.field.to_specimen(pixel_centres(self.shape)) + np.divide(self.specimen.extent, 2)
        index = (xy / _LAYER_SAMPLING).transpose(2, 0, 1)[::-1]
        carbon: FloatArray = ndimage.map_coordinates(layer, index, order=1, mode="constant")
        return carbon


def contamination_layer(specimen: Specimen, coverage: float, rng: np.random.Generator) -> FloatArray:
    """Return carbon atoms per Å² of hydrocarbon on a specimen (positions from its middle), none where it has holes."""
    width, height = specimen.extent
    shape = (int(height / _LAYER_SAMPLING) + 1, int(width / _LAYER_SAMPLING) + 1)
    carbon = hydrocarbon(shape, _LAYER_SAMPLING, coverage, rng) / float(cross_section(6))
    edges = [
        (np.arange(n + 1) - 0.5) * _LAYER_SAMPLING - size / 2 for n, size in zip(shape, (height, width), strict=True)
    ]
    x, y, _ = specimen.positions.T
    atoms = ndimage.gaussian_filter(np.histogram2d(y, x, edges)[0], 1.5 / _LAYER_SAMPLING) / _LAYER_SAMPLING**2
    carried: FloatArray = carbon * np.clip(atoms / _SUPPORTING_DENSITY, 0, 1)
    return carried


def _intervals(start: float, end: float, parts: int) -> list[tuple[float, float]]:
    edges = np.linspace(start, end, max(parts, 1) + 1)
    return [(float(a), float(b)) for a, b in itertools.pairwise(edges)]
