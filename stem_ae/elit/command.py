"""``stem-ae train`` and ``stem-ae models``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
from typing import TYPE_CHECKING, Any

from stem_ae import checks
from stem_ae.errors import StemAeError
from stem_ae.files import output_folder
from stem_ae.store import models
from stem_ae.words import counted

if TYPE_CHECKING:
    from stem_ae.elit.materials import Material


_FRAMES_TO_CHECK = 4  # of a series: enough atoms to judge a network by


def add_parsers(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register both commands."""
    train = subparsers.add_parser(
        "train",
        help="train a model for a structure",
        description="Train an ensemble on simulated images of a structure. Called again after an interruption, "
        "it goes on where it was.",
    )
    train.add_argument("structure", help="graphene, mos2, or a file that ASE reads (CIF, POSCAR, extended XYZ)")
    train.add_argument("--name", help="name of the model (default: the structure's)")
    train.add_argument("--index", metavar="N", help="which structure of a file that holds several: its name or number")
    train.add_argument("--zone", nargs=3, type=int, default=[0, 0, 1], metavar=("U", "V", "W"), help="zone axis")
    train.add_argument("--species", nargs="+", default=[], help="columns to look for (default: all)")
    train.add_argument("--members", type=int, default=5, help="networks in the ensemble (default: 5)")
    train.add_argument("--steps", type=int, default=3000, help="training steps of each network (default: 3000)")
    train.add_argument("--patches", type=int, default=4000, help="simulated training images (default: 4000)")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--device", default="auto", help="cpu, cuda, or auto (default)")
    train.add_argument("--threads", type=int, help="threads for torch (default: all cores but one)")
    train.add_argument("--output", type=pathlib.Path, help="file to write (default: the user's model store)")
    train.set_defaults(run=_train)

    listing = subparsers.add_parser("models", help="list, show and import models", description="The model store.")
    actions = listing.add_subparsers(dest="action", metavar="ACTION", required=True)
    for action, text in (("list", "all models"), ("show", "one model's facts"), ("remove", "delete one of your own"),
                         ("import", "copy a model file into the store"),
                         ("check", "which of a model's networks draw plausible atoms in an image")):
        parser = actions.add_parser(action, help=text, description=text)
        if action in ("show", "remove", "check"):
            parser.add_argument("name")
        if action == "check":
            parser.add_argument("image", type=pathlib.Path, metavar="IMAGE")
            parser.add_argument("--sampling", metavar="Å/PX", help="as for stem-ae find")
            parser.add_argument("--output", type=pathlib.Path, help="write a model of the chosen networks here")
        if action == "import":
            parser.add_argument("file", type=pathlib.Path)
            parser.add_argument("--name", help="name in the store (default: the model's own)")
        parser.add_argument("--json", action="store_true", help="print JSON")
        parser.set_defaults(run=_MODEL_ACTIONS[action])


def _train(arguments: argparse.Namespace) -> None:
    for option, most in (("members", 50), ("steps", 10_000_000), ("patches", 1_000_000)):
        checks.whole(getattr(arguments, option), f"--{option}", 1, most)
    checks.whole(arguments.seed, "--seed", 0, 2**31 - 1)
    if arguments.threads is not None:
        checks.whole(arguments.threads, "--threads", 1, 1024)
    material, default_name = _material(arguments)
    name = default_name if arguments.name is None else arguments.name
    path = _output(arguments.output, name) if arguments.output else _resumable_path(name)

    import torch
    from tqdm import tqdm

    from stem_ae.elit.build import Plan, build
    from stem_ae.elit.training import Recipe
    from stem_ae.torch_device import device_of

    device = device_of(arguments.device)
    torch.set_num_threads(arguments.threads or max(1, (os.cpu_count() or 1) - 1))
    plan = Plan(arguments.members, arguments.patches, recipe=Recipe(steps=arguments.steps), seed=arguments.seed)
    bars: dict[str, tqdm[Any]] = {}

    def report(what: str, done: int, total: int, loss: float) -> None:
        bar = bars.setdefault(what, tqdm(total=total, desc=what, leave=True, mininterval=0.5))
        bar.update(done - bar.n)
        if loss:
            bar.set_postfix(loss=f"{loss:.4f}")
        if done == total:
            bar.close()

    ensemble = build(name, material, plan, path, device, report)
    networks = counted(len(ensemble.members), "network")
    print(f"{path}: {networks} for {', '.join(ensemble.species)}, version {ensemble.version}")


def _resumable_path(name: str) -> pathlib.Path:
    """Return where the model goes; one that a training left there is taken up again."""
    models.check_name(name)
    own = models.user_folder() / f"{name}.safetensors"
    path = own if own.exists() else models.new_path(name)
    output_folder(path.parent)
    return path


def _output(path: pathlib.Path, name: str) -> pathlib.Path:
    """Return the file that the user has named, if a model can be written there."""
    models.check_name(name)
    if path.suffix != ".safetensors":
        raise StemAeError(f"--output is {path}: a model's file ends in .safetensors.")
    if path.is_dir():
        raise StemAeError(f"--output is the folder {path}: give a file in it, such as {path / 'mine.safetensors'}.")
    output_folder(path.absolute().parent)
    return path


def _material(arguments: argparse.Namespace) -> tuple[Material, str]:
    from stem_ae.elit.materials import MATERIALS, crystal

    if arguments.structure in MATERIALS:
        return MATERIALS[arguments.structure], f"my-{arguments.structure}"
    from stem_ae.structure.files import read

    path = pathlib.Path(arguments.structure)
    if not path.exists():
        raise StemAeError(f"There is no structure {path}: give a file, or one of {', '.join(MATERIALS)}.")
    u, v, w = arguments.zone
    return crystal(read(path, arguments.index, partial=True), (u, v, w), arguments.species), path.stem


def _list(arguments: argparse.Namespace) -> None:
    rows = [_facts_or_error(name) for name in models.names()]
    if arguments.json:
        print(json.dumps(rows))
        return
    for row in rows:
        if "error" in row:
            print(f"{row['name']:24} {row['error']}")
        else:
            networks = counted(row["members"], "network")
            print(f"{row['name']:24} {row['version']}  {networks}  {', '.join(row['species'])}")


def _facts_or_error(name: str) -> dict[str, Any]:
    """Return a model's facts, or what is wrong with its file: one that is broken does not hide the others."""
    try:
        return _facts(name)
    except StemAeError as error:
        return {"name": name, "error": str(error)}


def _show(arguments: argparse.Namespace) -> None:
    print(json.dumps(_facts(arguments.name) | {"path": str(models.find(arguments.name))}, indent=2))


def _remove(arguments: argparse.Namespace) -> None:
    files = [str(file) for file in models.remove(arguments.name)]
    print(json.dumps({"removed": arguments.name, "files": files}) if arguments.json else f"removed {', '.join(files)}")


def _import(arguments: argparse.Namespace) -> None:
    from stem_ae import elit

    ensemble = elit.load(arguments.file)
    path = ensemble.save(models.new_path(arguments.name or ensemble.name))
    print(json.dumps({"path": str(path)}) if arguments.json else f"imported as {path.stem}")


def _check(arguments: argparse.Namespace) -> None:
    from stem_ae import elit, find, imageio
    from stem_ae.elit.selection import select

    ensemble = elit.load(arguments.name)
    measure = arguments.sampling == "lattice"
    stated = None if measure else find.parse_sampling(arguments.sampling)
    stack = imageio.read(arguments.image, sampling=stated)
    constant = ensemble.description.lattice_constant
    sampling = find.choose_sampling(stack.frames[0], stack.sampling, stack.sampling_source, constant, measure)
    assert sampling.value is not None  # whoever needs one gets one
    chosen, verdicts = select(ensemble, stack.frames[:_FRAMES_TO_CHECK], sampling.value)
    if arguments.output:
        chosen.save(arguments.output)
    if arguments.json:
        print(json.dumps({"version": chosen.version, "members": [dataclasses.asdict(v) for v in verdicts]}))
        return
    for verdict in verdicts:
        mark = "chosen  " if verdict.chosen else "left out"
        print(f"network {verdict.member}  {mark}  {verdict.score:.2f}  {verdict.reason}")


def _facts(name: str) -> dict[str, Any]:
    from stem_ae import elit

    ensemble = elit.load(name)
    return {
        "name": name,
        "version": ensemble.version,
        "members": len(ensemble.members),
        "species": list(ensemble.species),
        "sampling": ensemble.sampling,
        "provenance": ensemble.description.provenance,
    }


_MODEL_ACTIONS = {"list": _list, "show": _show, "remove": _remove, "import": _import, "check": _check}
