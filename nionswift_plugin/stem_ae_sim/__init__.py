"""A simulated Nion microscope with atoms in it, for Swift. Opt-in: nothing changes until it is asked for.

It takes the place of Swift's stock simulator if the environment variable ``STEM_AE_SIMULATE=1`` is set when Swift
starts, or if *Preferences > Simulated microscope* says so. It never takes the place of a real instrument.
"""

from __future__ import annotations

import gettext
import importlib
import os
import typing

from nion.swift import Workspace
from nion.swift.model import Notification
from nion.ui import PreferencesDialog
from nion.utils import Registry

from nionswift_plugin.stem_ae_sim import preferences
from stem_ae.errors import StemAeError

if typing.TYPE_CHECKING:  # a Swift that does not simulate need not load the simulation
    from nionswift_plugin.stem_ae_sim.configuration import AtomicMicroscope

__all__ = ["current", "register", "run", "stop"]

_ = gettext.gettext

ENVIRONMENT_VARIABLE = "STEM_AE_SIMULATE"
PANEL_ID = "stem-ae-simulator-panel"
_STOCK_INSTRUMENT, _STOCK_PANEL = "usim_stem_controller", "simulator-instrument-panel"

_current: AtomicMicroscope | None = None


def run() -> None:
    """Start the simulated microscope if the user has asked for it. Swift calls this once all plug-ins are loaded."""
    PreferencesDialog.PreferencesManager().register_preference_pane(preferences.page())
    if not (_environment_asks() or preferences.is_wanted()):
        return
    try:
        register()
    except StemAeError as error:
        Notification.notify(
            Notification.Notification("stem_ae.simulator", "STEM AE", _("Simulated microscope not started"), str(error))
        )


def stop() -> None:
    """Take the simulated microscope out of Swift, if it is in."""
    global _current
    if _current is not None:
        Workspace.WorkspaceManager().unregister_panel(PANEL_ID)
        _current.stop()
        _current = None


def register(**options: typing.Any) -> AtomicMicroscope:
    """Put the simulated microscope in the place of the stock simulator; a second call returns the first one's.

    Parameters
    ----------
    **options
        As for :class:`~nionswift_plugin.stem_ae_sim.configuration.AtomicMicroscope`.

    Raises
    ------
    StemAeError
        If Swift controls a real instrument.
    """
    global _current
    if _current is None:
        _remove_stock_simulator()
        from nionswift_plugin.stem_ae_sim.configuration import AtomicMicroscope
        from nionswift_plugin.stem_ae_sim.panel import SimulatorPanel

        _current = AtomicMicroscope(**{"own_blanker": True} | options)
        _current.run()
        Workspace.WorkspaceManager().register_panel(
            SimulatorPanel, PANEL_ID, _("Simulated microscope"), ["left", "right"], "left",
            {"min-width": 260, "simulator": _current},
        )  # fmt: skip
    return _current


def current() -> AtomicMicroscope | None:
    """Return the simulated microscope that is registered with Swift, or None."""
    return _current


def _environment_asks() -> bool:
    return os.environ.get(ENVIRONMENT_VARIABLE, "").lower() in ("1", "true", "yes", "on")


def _remove_stock_simulator() -> None:
    instrument = Registry.get_component("stem_controller")
    if instrument is None:
        return
    if instrument.instrument_id != _STOCK_INSTRUMENT:
        raise StemAeError(
            f"Swift controls the instrument {instrument.instrument_id!r}, which the simulated microscope does not "
            f"replace: switch the simulation off (Preferences, {ENVIRONMENT_VARIABLE})."
        )
    importlib.import_module("nionswift_plugin.usim").stop()
    Workspace.WorkspaceManager().unregister_panel(_STOCK_PANEL)
