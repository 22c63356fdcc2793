"""What came out of a calculation."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from stem_ae.atoms import as_sampling
from stem_ae.errors import StemAeError

if TYPE_CHECKING:
    import ase

FloatArray = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Result:
    """The result in one calculation's folder.

    Attributes
    ----------
    folder : pathlib.Path
        Where its files are.
    summary : mapping
        Energy (eV), largest force (eV/Å), bonds and rings (Å, degrees), defects, displacement (pm), provenance.
    """

    folder: pathlib.Path
    summary: Mapping[str, Any]

    @classmethod
    def read(cls, folder: pathlib.Path) -> Result:
        """Open a finished calculation.

        Raises
        ------
        StemAeError
            If there is no result, or it is damaged.
        """
        from stem_ae.simulate.calculation import Calculation

        try:
            return cls(folder, Calculation(folder).read_result())
        except OSError as error:
            raise StemAeError(f"There is no result in {folder} yet.") from error
        except ValueError as error:
            raise _damaged(folder, error) from error

    @property
    def energy(self) -> float:
        """Potential energy of the final structure in eV."""
        return float(self.summary["energy"])

    @functools.cached_property
    def atoms(self) -> ase.Atoms:
        """The final structure, with what the image says about each atom.

        Raises
        ------
        StemAeError
            If there is none.
        """
        from ase.io import read

        if not self._structure.exists():
            raise StemAeError(f"The result in {self.folder} has no structure: it came from a command.")
        return cast("ase.Atoms", read(self._structure, format="extxyz"))

    @property
    def _structure(self) -> pathlib.Path:
        return self.folder / "result.extxyz"

    @property
    def displacement(self) -> FloatArray:
        """How far each atom moved in x and y from where the image has it, ``(N, 2)`` in Å; NaN for added atoms."""
        from stem_ae.simulate.statistics import displacement

        return displacement(self.atoms)

    @property
    def trajectory(self) -> list[ase.Atoms]:
        """The frames, with energies (eV) and forces (eV/Å).

        Raises
        ------
        StemAeError
            If they are damaged.
        """
        import io

        from ase.io import read

        from stem_ae.simulate.calculation import Calculation

        try:
            content = Calculation(self.folder).read_trajectory()
        except (OSError, ValueError) as error:
            raise _damaged(self.folder, error) from error
        return list(read(io.StringIO(content.decode()), index=":", format="extxyz")) if content else []

    @property
    def frame(self) -> dict[str, Any]:
        """Shape and sampling (Å per pixel) of the image that the structure was built from; empty if it was not."""
        if not self._structure.exists():
            return {}
        frame: dict[str, Any] = self.atoms.info.get("stem_ae", {}).get("frame", {})
        return frame

    def image(
        self,
        shape: Sequence[int] | None = None,
        sampling: float | Sequence[float] | None = None,
        sigma: float = 0.5,
    ) -> FloatArray:
        """Return the ADF image that the final structure would give, beside the experiment's, ``(H, W)``.

        Fraction of the beam that is scattered, for a Gaussian probe of this standard deviation in Å, in the frame of
        the image the structure was built from and, if no other are given, with its shape and sampling.

        Raises
        ------
        StemAeError
            If it was not built from an image.
        """
        from stem_ae.imaging.adf import expected_fraction
        from stem_ae.imaging.probe import GaussianProbe
        from stem_ae.imaging.scattering import cross_section
        from stem_ae.structure import to_image

        xy = to_image(self.atoms)  # refuses what was not built from an image
        height, width = shape or self.frame["shape"]
        step = as_sampling(self.frame["sampling"] if sampling is None else sampling)
        return expected_fraction(xy, cross_section(self.atoms.numbers), (height, width), step, GaussianProbe(sigma))


def _damaged(folder: pathlib.Path, error: Exception) -> StemAeError:
    return StemAeError(
        f"The result in {folder} is damaged ({error}): 'stem-ae jobs retry {folder.name}' sets it aside and calculates "
        "it again."
    )
