"""Experiments as bluesky plans, written against the microscope's devices only.

A plan is a generator of bluesky messages. To write one, compose the stubs of :mod:`stem_ae.plans.stubs` and hand the
whole to :func:`~stem_ae.plans.stubs.as_run`, which opens the run's documents and makes sure that, however it ends, the
beam is blanked, the probe parked and the user's scan settings are back::

    from stem_ae.plans import Runner, stubs

    def line(microscope, start, stop, count, exposure_s):
        def measure():
            yield from stubs.scan(microscope, microscope.instrument.user_frame())
            microscope.eels.exposure_s = exposure_s
            for place in np.linspace(start, stop, count):          # x and y in Å of the scan plane
                yield from stubs.measure(microscope, microscope.eels, place)
        return stubs.as_run(microscope, "line", measure(), start=start, stop=stop, count=count)

    runner = Runner(Microscope(SwiftInstrument()), folder)
    runner.start(line(runner.microscope, (0, 0), (10, 0), 20, 0.05))
    runner.wait()

What a plan does between two checkpoints is done again after a pause: checkpoints belong where that is harmless
(``stubs.measure`` and ``stubs.scan`` begin with one). Say what went wrong with ``StemAeError``; the runner shows it as
it is. Never block in a plan: what takes longer than a millisecond belongs into a device's ``Operation`` or another
process.
"""

from stem_ae.plans.documents import DocumentWriter, Run
from stem_ae.plans.runner import Runner

__all__ = ["DocumentWriter", "Run", "Runner"]
