"""What can be calculated: relaxation, molecular dynamics, adsorption energy; and running a program of one's own."""

from __future__ import annotations

import dataclasses
import shlex
import signal
import subprocess
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from stem_ae import checks
from stem_ae.errors import StemAeError
from stem_ae.simulate.calculation import Calculation, Reporter, set_aside

if TYPE_CHECKING:
    import ase

_HOT_FACTOR, _HOT = 20.0, 20_000.0
"""A temperature above so many times the wanted one, and so many K more, is no longer that of a solid: even a bond that
breaks heats a small molecule less."""

_BENT = 0.01
"""Å: a molecule whose atoms are no farther from a line turns as a line does."""


class Task(Protocol):
    """Something to calculate: plain numbers and words that JSON can hold."""

    kind: ClassVar[str]

    def check(self, atoms: ase.Atoms | None) -> None:
        """Raise StemAeError if this cannot work, before it is queued."""

    def run(self, calculation: Calculation) -> None:
        """Do it in the calculation's folder, going on from its checkpoint."""


def to_dict(task: Task) -> dict[str, Any]:
    """Return a task as JSON's objects."""
    return {"kind": task.kind, **dataclasses.asdict(task)}  # type: ignore[call-overload]


def from_dict(content: Mapping[str, Any]) -> Task:
    """Return the task that :func:`to_dict` wrote.

    Raises
    ------
    StemAeError
        If this version does not know it.
    """
    options = dict(content)
    kind = options.pop("kind", None)
    if kind not in TASKS:
        raise StemAeError(f"This version of stem_ae does not know the task {kind!r}: choose from {', '.join(TASKS)}.")
    task: Task = TASKS[kind](**{k: tuple(v) if isinstance(v, list) else v for k, v in options.items()})
    return task


def _check_engine(engine: str | None, atoms: ase.Atoms | None) -> None:
    from stem_ae.simulate import electrons, engines
    from stem_ae.structure.possible import refuse_impossible

    if atoms is None or len(atoms) == 0:
        raise StemAeError("There are no atoms to calculate with: build a structure first.")
    refuse_impossible(atoms)
    electrons.check(atoms)
    chosen = engines.get(engine)
    unknown = sorted({atoms.symbols[int(k)] for k in np.flatnonzero(atoms.numbers > chosen.elements)})
    if unknown:
        raise StemAeError(f"{chosen.title} does not know {', '.join(unknown)}: choose another engine.")


def _prepared(calculation: Calculation, engine: str | None, fixed: str | None) -> ase.Atoms:
    """Return the structure with its constraints and the engine attached."""
    from stem_ae.simulate import engines
    from stem_ae.simulate.constraints import fix

    atoms = calculation.structure
    if atoms is None:
        raise StemAeError("There are no atoms to calculate with: build a structure first.")
    atoms = fix(atoms, fixed)
    atoms.calc = engines.get(engine).make(atoms, calculation.folder)
    return atoms


def _largest_force(atoms: ase.Atoms) -> float:
    return float(np.linalg.norm(atoms.get_forces(), axis=1).max())


@dataclasses.dataclass(frozen=True)
class Relax:
    """Move the atoms until the forces vanish.

    Parameters
    ----------
    engine : str or None
        The embedded one (GFN1-xTB) if None.
    fixed : str or None
        ``"perimeter"``, ``"H"`` and ``"xy"`` (only z is free) are held, joined by ``+``.
    fmax : float
        Largest force on an atom at the end, eV/Å.
    cell : bool
        Relax the cell too (periodic structures).
    max_steps : int
        Give up after so many.
    ripple : float
        Å, standard deviation along z that an exactly flat sheet is given first: an image knows no z, and on a flat
        sheet all forces along z vanish by symmetry, whether or not it would rather buckle.
    """

    kind: ClassVar[str] = "relax"

    engine: str | None = None
    fixed: str | None = None
    fmax: float = 0.05
    cell: bool = False
    max_steps: int = 500
    ripple: float = 0.02

    def check(self, atoms: ase.Atoms | None) -> None:
        """Raise StemAeError if engine, structure and options do not go together."""
        from stem_ae.simulate.constraints import fix

        _check_engine(self.engine, atoms)
        assert atoms is not None
        fix(atoms, self.fixed)
        self.check_numbers()
        if self.cell and not atoms.pbc.any():
            raise StemAeError("A patch in vacuum has no cell to relax: switch cell off, or build it periodic.")

    def check_numbers(self) -> None:
        """Raise StemAeError if a number is not possible."""
        if not self.fmax > 0:
            raise StemAeError(f"The force limit of {self.fmax:g} eV/Å cannot be reached: give a positive one.")
        checks.positive(self.fmax, "The force limit", 1000, "eV/Å")
        checks.whole(self.max_steps, "The largest number of steps", 1)
        checks.number(self.ripple, "The ripple", 0, 1, "Å")

    def run(self, calculation: Calculation) -> None:
        """Relax, going on from the checkpoint."""
        reporter = Reporter(calculation)
        atoms = _prepared(calculation, self.engine, self.fixed)
        steps = self.relax(atoms, reporter, calculation)
        final = atoms.copy()
        _write_summary(calculation, self, final, _final_energies(atoms), steps, reporter.seconds)

    def relax(self, atoms: ase.Atoms, reporter: Reporter, calculation: Calculation) -> int:
        """Relax these atoms in place, report every step, and return how many there were."""
        from ase.filters import FrechetCellFilter
        from ase.optimize import BFGS

        from stem_ae.simulate.optimise import optimiser

        kept = reporter.resume(len(atoms))
        done = int(kept.get("steps", 0))
        if kept:
            atoms.set_cell(kept["cell"])
            atoms.set_positions(kept["positions"], apply_constraint=False)
        else:
            _ripple(atoms, self.ripple)
        search: Any
        if self.cell:
            with_cell: Any = FrechetCellFilter(atoms, mask=_cell_mask(atoms))
            search = BFGS(with_cell, logfile=None)
        else:
            search = optimiser(atoms, kept.get("hessian"))
        frames, first = int(kept.get("frames", 0)), float(kept.get("first", 0.0))
        for _ in search.irun(fmax=self.fmax, steps=max(self.max_steps - done, 0)):
            if kept and not search.nsteps:
                continue  # the checkpoint's own step was reported before it was kept
            energy, force = float(atoms.get_potential_energy()), _largest_force(atoms)
            first = first or force
            steps = done + search.nsteps
            reporter.frame(_frame(atoms))
            frames += 1
            reporter.step(steps, _closeness(first, force, self.fmax), energy, force)
            if reporter.due():
                learnt = search.curvature() if hasattr(search, "curvature") else None
                reporter.checkpoint(
                    positions=atoms.positions, cell=atoms.cell.array, hessian=learnt, steps=steps, frames=frames,
                    first=first,
                )  # fmt: skip
        if not search.converged():
            raise StemAeError(
                f"The forces are still {_largest_force(atoms):.3g} eV/Å after {self.max_steps} steps: look at the last "
                "structure, then allow more steps or a larger force."
            )
        return done + int(search.nsteps)


def _ripple(atoms: ase.Atoms, amplitude: float) -> None:
    flat = len(np.unique(np.round(atoms.positions[:, 2], 6))) == 1
    if flat and amplitude > 0 and len(atoms) > 3:
        atoms.positions[:, 2] += np.random.default_rng(0).normal(0.0, amplitude, len(atoms))


def _cell_mask(atoms: ase.Atoms) -> list[int]:
    """Return which stresses (xx, yy, zz, yz, xz, xy) may relax: none across vacuum."""
    a, b, c = (int(p) for p in atoms.pbc)
    return [a, b, c, b * c, a * c, a * b]


def _frame(atoms: ase.Atoms) -> ase.Atoms:
    """Return positions, energy and forces as they are now."""
    from ase.calculators.singlepoint import SinglePointCalculator

    frame: ase.Atoms = atoms.copy()
    frame.set_constraint()
    for name in set(frame.arrays) - {"numbers", "positions", "momenta"}:
        del frame.arrays[name]
    frame.info = {}
    frame.calc = SinglePointCalculator(frame, **_energies(atoms))
    return frame


def _energies(atoms: ase.Atoms) -> dict[str, Any]:
    return {"energy": float(atoms.get_potential_energy()), "forces": np.array(atoms.get_forces(apply_constraint=False))}


def _final_energies(atoms: ase.Atoms) -> dict[str, Any]:
    """Return the same, and each atom's share of the energy if the engine tells."""
    shares = {}
    if "energies" in getattr(atoms.calc, "implemented_properties", ()):
        shares["energies"] = np.array(atoms.get_potential_energies())
    return {**_energies(atoms), **shares}


def _closeness(first: float, now: float, goal: float) -> float:
    """Return how far a relaxation is, 0 to 1, on a logarithmic scale of the force."""
    if now <= goal:
        return 1.0
    return float(np.clip(np.log(first / now) / np.log(first / goal), 0.0, 0.99))


def _write_summary(
    calculation: Calculation, task: Any, final: ase.Atoms, energies: Mapping[str, Any], steps: int, seconds: float,
    **more: Any,
) -> None:  # fmt: skip
    from stem_ae.simulate import engines, statistics
    from stem_ae.simulate.constraints import fix, free_coordinates

    free = free_coordinates(fix(final, getattr(task, "fixed", None)))
    final.calc = None
    final.set_array("forces", np.asarray(energies["forces"]))
    if "energies" in energies:
        final.set_array("atom_energy", np.asarray(energies["energies"]))
    final.info["energy"] = energies["energy"]
    summary = {
        "task": to_dict(task),
        "engine": engines.get(task.engine).title,
        "energy": energies["energy"],
        "fmax": float(np.linalg.norm(np.where(free, energies["forces"], 0.0), axis=1).max()),
        "steps": steps,
        "seconds": seconds,
        **statistics.describe(final),
        "displacement": statistics.describe_displacement(final),
        **more,
    }
    calculation.write_result(summary, final)


@dataclasses.dataclass(frozen=True)
class MolecularDynamics:
    """Let the atoms move at a temperature.

    Parameters
    ----------
    temperature : float
        K.
    steps : int
        Number of time steps; 2000 of 1 fs are the literature's 2 ps.
    timestep : float
        fs.
    thermostat : {"nose-hoover", None}
        Nosé-Hoover chain, or none (constant energy).
    damping : float
        Period of the thermostat in fs.
    engine, fixed : str or None
        As in :class:`Relax`.
    seed : int
        Of the first velocities.
    every : int
        Steps between frames of the trajectory.
    """

    kind: ClassVar[str] = "md"

    temperature: float = 300.0
    steps: int = 2000
    timestep: float = 1.0
    thermostat: str | None = "nose-hoover"
    damping: float = 100.0
    engine: str | None = None
    fixed: str | None = None
    seed: int = 0
    every: int = 10

    def check(self, atoms: ase.Atoms | None) -> None:
        """Raise StemAeError if engine, structure and options do not go together."""
        from stem_ae.simulate.constraints import fix, free_coordinates

        _check_engine(self.engine, atoms)
        assert atoms is not None
        held = fix(atoms, self.fixed)
        if not free_coordinates(held).any():
            raise StemAeError("Every atom is held fixed: nothing can move.")
        if self._degrees_of_freedom(held) < 1:
            raise StemAeError("A single atom on which nothing acts has no temperature: give it neighbours, or relax.")
        self.check_numbers()

    def check_numbers(self) -> None:
        """Raise StemAeError if a number is not possible."""
        if not (self.temperature > 0 and self.timestep > 0 and self.steps > 0 and self.every > 0):
            raise StemAeError("Temperature, time step and number of steps must be positive.")
        checks.positive(self.temperature, "The temperature", 1e5, "K")
        checks.positive(self.timestep, "The time step", 100, "fs")
        checks.positive(self.damping, "The thermostat's period", 1e6, "fs")
        checks.whole(self.steps, "The number of steps", 1, 1_000_000_000)
        checks.whole(self.every, "The number of steps between frames", 1, 1_000_000_000)
        checks.whole(self.seed, "The seed", 0, checks.MOST_SEED)
        if self.thermostat not in ("nose-hoover", None):
            raise StemAeError(f"The thermostat {self.thermostat!r} is not known: choose nose-hoover or none.")

    def run(self, calculation: Calculation) -> None:
        """Run the dynamics, going on from the checkpoint."""
        from stem_ae.simulate import statistics

        reporter = Reporter(calculation)
        atoms = _prepared(calculation, self.engine, self.fixed)
        kept = reporter.resume(len(atoms))
        done, frames = int(kept.get("steps", 0)), int(kept.get("frames", 0))
        if kept:
            atoms.set_positions(kept["positions"], apply_constraint=False)
            atoms.set_momenta(kept["momenta"], apply_constraint=False)
        else:
            self._warm_up(atoms)
        dynamics, chain = self._dynamics(atoms)
        if chain is not None and kept:
            chain._eta[:], chain._p_eta[:] = kept["eta"], kept["p_eta"]
        degrees = self._degrees_of_freedom(atoms)
        for _ in dynamics.irun(steps=self.steps - done):
            step = done + dynamics.nsteps
            if dynamics.nsteps or not kept:  # the checkpoint's own step was reported before it was kept
                frames += self._report(atoms, step, degrees, reporter)
            if reporter.due():
                reporter.checkpoint(
                    positions=atoms.positions, momenta=atoms.get_momenta(), steps=step, frames=frames,
                    eta=None if chain is None else chain._eta, p_eta=None if chain is None else chain._p_eta,
                )  # fmt: skip
        # The first half is taken for equilibration.
        later = [frame for k, frame in enumerate(reporter.frames(frames)) if 2 * k >= frames]
        history = calculation.history()
        averages = statistics.describe_frames(later)
        averages["temperature"] = float(history["temperature"][len(history) // 2 :].mean())
        _write_summary(
            calculation, self, atoms.copy(), _energies(atoms), self.steps, reporter.seconds, averages=averages
        )

    def _warm_up(self, atoms: ase.Atoms) -> None:
        from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary, ZeroRotation

        MaxwellBoltzmannDistribution(atoms, temperature_K=self.temperature, rng=np.random.default_rng(self.seed))
        if not atoms.constraints:
            Stationary(atoms)
            if not atoms.pbc.any():
                ZeroRotation(atoms)

    def _dynamics(self, atoms: ase.Atoms) -> tuple[Any, Any]:
        """Return ASE's integrator, and its thermostat's state if it has one."""
        from ase import units
        from ase.md.verlet import VelocityVerlet

        from stem_ae.simulate.dynamics import NoseHoover

        if self.thermostat is None:
            return VelocityVerlet(atoms, self.timestep * units.fs), None
        # ASE's chain counts 3 N degrees of freedom whatever is held: ask for the kinetic energy that is meant.
        scaled = self.temperature * self._degrees_of_freedom(atoms) / (3 * len(atoms))
        dynamics = NoseHoover(atoms, self.timestep * units.fs, temperature_K=scaled, tdamp=self.damping * units.fs)
        return dynamics, dynamics._thermostat

    @staticmethod
    def _degrees_of_freedom(atoms: ase.Atoms) -> int:
        from stem_ae.simulate.constraints import free_coordinates

        free = free_coordinates(atoms)
        if not free.all():
            return int(free.sum())
        if atoms.pbc.any() or len(atoms) == 1:
            return 3 * len(atoms) - 3
        # A line has no third way to turn.
        spread = np.linalg.svd(atoms.positions - atoms.positions.mean(axis=0), compute_uv=False)
        return 3 * len(atoms) - (6 if spread[1] > _BENT else 5)

    def _report(self, atoms: ase.Atoms, step: int, degrees: int, reporter: Reporter) -> int:
        """Report a step and return how many frames were written."""
        from ase import units

        temperature = 2 * atoms.get_kinetic_energy() / (degrees * units.kB)
        if not temperature <= _HOT_FACTOR * self.temperature + _HOT:
            raise StemAeError(
                f"The atoms fly apart: {temperature:.3g} K after {step} steps, where {self.temperature:g} K are meant: "
                "relax the structure first, or take shorter time steps."
            )
        total = float(atoms.get_total_energy()) if self.thermostat is None else float(atoms.get_potential_energy())
        reporter.step(step, step / self.steps, total, _largest_force(atoms), temperature)
        if step % self.every:
            return 0
        reporter.frame(_frame(atoms))
        return 1


@dataclasses.dataclass(frozen=True)
class Adsorption:
    """The adsorption energy of some atoms on the rest: ``E_ads = E_system + E_adsorbate - E_(system + adsorbate)``.

    With this sign (the literature's) a *positive* energy is a bond: it is what taking the adsorbate away costs. Each of
    the three has the number of unpaired electrons with the lowest energy, up to what the adsorbate's atoms have alone.

    Parameters
    ----------
    adsorbate : tuple of int
        Its atoms in the structure, counted from 0; by default those that :func:`stem_ae.structure.adsorb` marked.
    engine, fixed, fmax, max_steps
        As in :class:`Relax`: all three structures are relaxed.
    """

    kind: ClassVar[str] = "adsorption"

    adsorbate: tuple[int, ...] = ()
    engine: str | None = None
    fixed: str | None = None
    fmax: float = 0.05
    max_steps: int = 500

    def check(self, atoms: ase.Atoms | None) -> None:
        """Raise StemAeError if the adsorbate is none or all of the structure."""
        Relax(self.engine, self.fixed, self.fmax, max_steps=self.max_steps).check(atoms)
        assert atoms is not None
        chosen = set(self._chosen(atoms))
        if not chosen:
            raise StemAeError("Nothing is adsorbed on this structure: add an ad-atom or a group, or name its atoms.")
        if not chosen < set(range(len(atoms))):
            raise StemAeError(
                f"The adsorbate must be some, not all, of the structure's {len(atoms)} atoms, counted from 0."
            )

    def _chosen(self, atoms: ase.Atoms) -> tuple[int, ...]:
        marked = atoms.arrays.get("adsorbate", np.zeros(len(atoms), bool))
        return self.adsorbate or tuple(np.flatnonzero(marked).tolist())

    def run(self, calculation: Calculation) -> None:
        """Relax the whole and its two parts, each in a folder of its own."""
        from stem_ae.simulate import engines, spin
        from stem_ae.simulate.result import Result

        whole = calculation.structure
        assert whole is not None
        part = np.isin(np.arange(len(whole)), self._chosen(whole))
        # The part in vacuum has no perimeter any more; a single atom has nothing to relax.
        pieces = {
            "whole": (whole, self.fixed), "system": (whole[~part], self.fixed), "adsorbate": (whole[part], None),
        }  # fmt: skip
        most = {"whole": spin.most_unpaired(whole[part]), "system": 0, "adsorbate": spin.most_unpaired(whole[part])}
        carriers = {"whole": np.flatnonzero(part), "system": np.arange(1), "adsorbate": np.arange(int(part.sum()))}
        energies, unpaired = {}, {}
        reporter = Reporter(calculation)
        for number, (name, (atoms, fixed)) in enumerate(pieces.items(), start=1):
            relax = Relax(self.engine, fixed, self.fmax, max_steps=self.max_steps)
            sub = calculation.folder / name
            if not _is_usable(Calculation(sub)):
                set_aside(calculation.folder, [name])
                engine = engines.get(self.engine)
                atoms = spin.with_lowest_spin(atoms, carriers[name], most[name], engine, calculation.folder)
                Calculation.create(sub, to_dict(relax), atoms, {})
            if not Calculation(sub).finished:
                relax.run(Calculation(sub))
            result = Result.read(sub)
            unpaired[name] = spin.unpaired(result.atoms)
            energies[name] = result.energy
            reporter.step(number, number / 3, energies[name], float(result.summary["fmax"]))
        final = Result.read(calculation.folder / "whole").atoms
        energy = energies["system"] + energies["adsorbate"] - energies["whole"]
        _write_summary(
            calculation, self, final, {"energy": energies["whole"], "forces": final.get_forces()}, 3,
            reporter.seconds, adsorption_energy=energy, parts=energies, unpaired_electrons=unpaired,
        )  # fmt: skip


def _is_usable(part: Calculation) -> bool:
    """Say whether a part of a calculation was begun and is not damaged."""
    try:
        return bool(part.input) and not part.damage()
    except StemAeError:
        return False


@dataclasses.dataclass(frozen=True)
class Command:
    """Run a program in the calculation's folder, such as an engine on input files that were written there.

    Parameters
    ----------
    command : str
        The program and its arguments, as typed in a terminal without shell features.
    """

    kind: ClassVar[str] = "command"

    command: str = ""

    def check(self, atoms: ase.Atoms | None) -> None:
        """Raise StemAeError if there is no command."""
        if not shlex.split(self.command):
            raise StemAeError("There is no command to run.")

    def run(self, calculation: Calculation) -> None:
        """Run it; what it prints goes to the log."""
        try:
            done = subprocess.run(shlex.split(self.command), cwd=calculation.folder, check=False)
        except OSError as error:
            raise StemAeError(f"{shlex.split(self.command)[0]!r} cannot be run: {error.strerror}.") from error
        if done.returncode:
            code = done.returncode
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"code {code}"
            raise StemAeError(f"The command ended with {how}: see its log.")
        calculation.write_result({"task": to_dict(self)}, None)


TASKS: dict[str, Any] = {task.kind: task for task in (Relax, MolecularDynamics, Adsorption, Command)}
"""Every task by its kind."""
