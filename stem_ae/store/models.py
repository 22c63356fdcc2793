"""The model store: bundled models, and the user's own beside them."""

from __future__ import annotations

import glob
import pathlib
import re

from stem_ae import folders
from stem_ae.errors import StemAeError

_BUNDLED = pathlib.Path(__file__).parent.parent / "elit" / "models"
_SUFFIX = ".safetensors"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def user_folder() -> pathlib.Path:
    """Return where the user's models are kept; ``STEM_AE_MODELS`` overrides it."""
    return folders.folder("models")


def names() -> list[str]:
    """Return the names of all models, bundled ones first."""
    own = sorted(path.stem for path in user_folder().glob("*" + _SUFFIX) if path.is_file())
    bundled = sorted(path.stem for path in _BUNDLED.glob("*" + _SUFFIX))
    return bundled + [name for name in own if name not in bundled]


def find(name: str | pathlib.Path) -> pathlib.Path:
    """Return the file of a model, given its name or its path.

    Raises
    ------
    StemAeError
        If there is none.
    """
    path = pathlib.Path(name)
    if path.suffix == _SUFFIX:
        return path
    if path.name == str(name):
        for folder in (_BUNDLED, user_folder()):
            if (folder / f"{name}{_SUFFIX}").is_file():
                return folder / f"{name}{_SUFFIX}"
    known = ", ".join(names()) or "none"
    raise StemAeError(f"There is no model {str(name)!r}: choose one of {known}, or give a path to a {_SUFFIX} file.")


def material(name: str) -> str:
    """Return the key of the material that a model was made for; empty if it is unknown.

    Only the file's header is read.
    """
    from stem_ae.elit.model_file import read_header

    try:
        return read_header(find(name)).material
    except StemAeError:
        return ""


def new_path(name: str) -> pathlib.Path:
    """Return the path at which a new model of the user's is to be written.

    Raises
    ------
    StemAeError
        If the name is taken or cannot be a file's name.
    """
    check_name(name)
    if name in names():
        raise StemAeError(f"There is already a model {name!r}: choose another name or remove that one.")
    user_folder().mkdir(parents=True, exist_ok=True)
    return user_folder() / f"{name}{_SUFFIX}"


def check_name(name: str) -> None:
    """Raise StemAeError if a name cannot be that of a new model.

    Raises
    ------
    StemAeError
        If it cannot be a file's name everywhere.
    """
    if not _NAME.fullmatch(name):
        raise StemAeError(
            f"{name!r} cannot name a model: give a --name of letters, digits, dots, dashes and underscores."
        )


def remove(name: str) -> list[pathlib.Path]:
    """Delete one of the user's own models, and what an unfinished training of that name has left; return the files.

    Parameters
    ----------
    name : str
        Its name, or the path of its file in the user's folder.

    Raises
    ------
    StemAeError
        If it is bundled, is not in the user's folder, or does not exist.
    """
    path = pathlib.Path(name)
    if path.suffix == _SUFFIX or path.name != str(name):
        if path.absolute().parent.resolve() == _BUNDLED.resolve():
            raise StemAeError(f"The model {path.stem!r} is part of stem_ae and stays.")
        if path.absolute().parent.resolve() != user_folder().resolve():
            raise StemAeError(f"{name} is not among your models in {user_folder()}: delete it like any other file.")
        name = path.name.removesuffix(_SUFFIX)
    if (_BUNDLED / f"{name}{_SUFFIX}").is_file():
        raise StemAeError(f"The model {name!r} is part of stem_ae and stays.")
    own = user_folder() / f"{name}{_SUFFIX}"
    files = [own] * (own.is_file() or own.is_symlink()) + leftovers(own)
    if not name or not files:
        raise StemAeError(f"There is no model {name!r} among yours: {', '.join(names())} are there.")
    for file in files:
        file.unlink(missing_ok=True)
    return files


def leftovers(path: pathlib.Path) -> list[pathlib.Path]:
    """Return what an unfinished training has left beside the model that it was to become."""
    parts = (path.parent.glob(f"{glob.escape(path.stem)}.member*.{ending}") for ending in ("checkpoint", "damaged"))
    return sorted(file for part in parts for file in part)
