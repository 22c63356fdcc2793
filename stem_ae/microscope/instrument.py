"""What every microscope has to offer: a dozen blocking operations. The bluesky devices are built on them.

``swift.py`` fulfils this with Nion Swift's instrument. Nothing else is needed to bring another one in.
"""

from __future__ import annotations

import threading
from typing import Literal, Protocol

from stem_ae.errors import StemAeError
from stem_ae.microscope.frame import CameraFrame, Frame, Image, Reading

CameraName = Literal["eels", "diffraction"]
ControlName = Literal["defocus", "astigmatism_x", "astigmatism_y", "stage_x", "stage_y", "shift_x", "shift_y"]
"""All in Å: C10, the components of C12, stage position, beam shift."""


class Cancelled(StemAeError):  # noqa: N818  (nothing went wrong)
    """An operation ended because it was told to."""


class Instrument(Protocol):
    """A microscope.

    Every method may be called from any thread and raises ``StemAeError`` when it cannot be done, ``Cancelled`` when its
    event told it to stop.
    """

    name: str

    @property
    def is_blanked(self) -> bool:
        """Whether the beam is kept from the specimen."""

    def blank(self, blanked: bool) -> None:
        """Blank or unblank the beam; takes effect before it returns."""

    def park(self, place: tuple[float, float] | None) -> None:
        """Let the beam rest at a place of the scan plane (x, y in Å); None: where it is by default."""

    def scan(self, frame: Frame, cancel: threading.Event) -> Image:
        """Scan one frame, or a sub-scan."""

    def user_frame(self) -> Frame:
        """Return what the user's scan is set to."""

    def expose(self, camera: CameraName, exposure_s: float, cancel: threading.Event) -> CameraFrame:
        """Return one exposure that began after the call, with the beam where it rests."""

    def is_synchronised(self, camera: CameraName) -> bool:
        """Return whether a camera can be exposed at every pixel of a scan, which :meth:`expose_scan` then does."""

    def expose_scan(
        self, camera: CameraName, frame: Frame, exposure_s: float, cancel: threading.Event
    ) -> CameraFrame:
        """Scan a frame at the pace of a camera: data ``(H, W, E)`` or ``(H, W, h, w)``, an exposure for each pixel."""

    def read_dark_field(self, seconds: float, cancel: threading.Event) -> Reading:
        """Return what the dark-field detector counts under the resting beam during (about) this time."""

    def get(self, control: ControlName) -> float:
        """Return a control's value in Å."""

    def set(self, control: ControlName, value: float) -> None:
        """Set a control, in Å."""

    def hold(self) -> None:
        """Stop what the user acquires and remember how everything was set."""

    def release(self) -> None:
        """Set everything as :meth:`hold` found it, except that the beam stays blanked."""
