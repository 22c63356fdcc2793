"""The application that Swift's launcher runs: ``nionswift --app nionswift_plugin.stem_ae_app ORDER.json``."""

from __future__ import annotations

import asyncio
import importlib
import json
import pathlib
import sys
import traceback
import typing

from nion.swift import Application, DocumentController, Facade
from nion.swift.model import FileStorageSystem, Profile
from nion.ui import Application as ApplicationUI
from nion.ui import QtUserInterface

from nionswift_plugin.stem_ae_ui import swift_versions
from stem_ae.launch.order import Order


def main(args: list[str], bootstrap_args: dict[str, typing.Any]) -> Application.Application:
    """Return the application for the order whose path is the last argument."""
    order = Order.read(pathlib.Path(args[-1]))
    if sys.__stdout__:  # the launcher's own stream writes every word on a line of its own
        sys.stdout = sys.stderr = sys.__stdout__
    Facade.initialize()
    own = OwnFolderInterface(bootstrap_args["proxy"], order.folder) if order.folder else None
    ui = own or ApplicationUI.make_ui(bootstrap_args)
    app = OrderedApplication(ui, order)
    app.initialize(use_root_dir=False)
    return app


class OwnFolderInterface(QtUserInterface.QtUserInterface):
    """The native interface with every location inside one folder, so that the user's own Swift stays untouched."""

    def __init__(self, proxy: typing.Any, folder: pathlib.Path) -> None:
        super().__init__(proxy)
        self.__folder = folder

    def __location(self, name: str) -> str:
        path = self.__folder / name
        path.mkdir(parents=True, exist_ok=True)
        return str(path)

    def get_data_location(self) -> str:
        """Return where Swift keeps profile, logs and caches."""
        return self.__location("data")

    def get_document_location(self) -> str:
        """Return where Swift offers to save."""
        return self.__location("documents")

    def get_configuration_location(self) -> str:
        """Return where Swift keeps its settings."""
        return self.__location("settings")


class OrderedApplication(Application.Application):
    """Nion Swift that opens its own project without asking and then runs a scenario."""

    def __init__(self, ui: typing.Any, order: Order) -> None:
        super().__init__(ui)
        self.__order = order

    def start(
        self, *, profile_dir: pathlib.Path | None = None, profile: Profile.Profile | None = None
    ) -> bool:
        """Open the window and let the scenario begin."""
        try:
            if self.__order.folder:
                profile = own_profile(self.__order.folder, self.event_loop)
            started = super().start(profile_dir=profile_dir, profile=profile)
        except Exception:
            answer(self.__order, {"error": traceback.format_exc()})
            raise
        if started and self.__order.scenario and self.document_controllers:
            window = self.document_controllers[0]
            window.event_loop.create_task(perform(self.__order, window))
        return started


def own_profile(folder: pathlib.Path, loop: asyncio.AbstractEventLoop) -> Profile.Profile:
    """Return the profile in the folder with its one project as the last opened, both made if they are missing."""
    data = folder / "data"
    cache = data / "Cache"
    cache.mkdir(parents=True, exist_ok=True)
    path = data / "Profile.nsproj"
    if not path.exists():
        header = {"version": FileStorageSystem.PROFILE_VERSION, "script_items_updated": True}
        path.write_text(json.dumps(header), encoding="utf-8")
    storage = FileStorageSystem.make_file_persistent_storage_system(path)
    storage.load_properties()
    profile = swift_versions.new_profile(storage, cache, loop)
    profile.read_profile()
    if not profile.project_references:
        reference = profile.create_project(folder / "project", "stem_ae")
        assert reference is not None
        profile.last_project_reference = reference.uuid
    return profile


async def perform(order: Order, window: DocumentController.DocumentController) -> None:
    """Run the scenario, write its answer and close the window if that was asked for."""
    assert order.scenario is not None
    module, _, function = order.scenario.partition(":")
    try:
        answer(order, {"value": await getattr(importlib.import_module(module), function)(window, **order.options)})
    except Exception:  # whatever the scenario meets belongs in the answer: nobody watches this process's output
        answer(order, {"error": traceback.format_exc()})
        raise
    finally:
        if order.close:
            window.queue_request_close()


def answer(order: Order, content: dict[str, typing.Any]) -> None:
    """Write the answer in one step, so that the reader never sees half of it."""
    if order.result:
        part = order.result.with_suffix(".part")
        part.write_text(json.dumps(content), encoding="utf-8")
        part.replace(order.result)
