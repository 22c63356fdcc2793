"""What differs between Swift's versions looks the same from here."""

import time

import numpy as np
import pytest

pytest.importorskip("nion.instrumentation")

from nion.data import DataAndMetadata
from nion.swift import Facade
from nion.swift.model import DataItem, Graphics
from nion.swift.test import TestContext

from nionswift_plugin.stem_ae_ui.swift_versions import DisplayedData


@pytest.fixture
def document():
    Facade.initialize()
    setup = TestContext.TestSetup()
    with TestContext.create_memory_context() as context:
        window = context.create_document_controller()
        yield window
    del setup


def wait(window, condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "took too long"
        window.periodic()
        time.sleep(0.005)


def sequence(stack):
    return DataAndMetadata.new_data_and_metadata(stack, data_descriptor=DataAndMetadata.DataDescriptor(True, 0, 2))


def test_what_is_displayed_is_told_once_for_every_change(document):
    stack = np.random.default_rng(0).normal(size=(3, 8, 8))
    item = DataItem.new_data_item(sequence(stack))
    document.document_model.append_data_item(item)
    display_item = document.document_model.get_display_item_for_data_item(item)
    told = []
    displayed = DisplayedData(display_item, lambda shown, whole: told.append((np.array(shown.data), whole)))

    def is_told(data, number):
        wait(document, lambda: len(told) >= number and np.array_equal(told[-1][0], data))

    is_told(stack[0], 1)
    assert told[-1][1].data_shape == stack.shape
    display_item.display_data_channel.sequence_index = 2
    is_told(stack[2], 2)
    item.set_xdata(sequence(stack + 1))
    is_told(stack[2] + 1, 3)
    # A graphic is no other image: the networks would read the same frame again and again while it is dragged.
    before = len(told)
    graphic = Graphics.RectangleGraphic()
    display_item.add_graphic(graphic)
    graphic.center = 0.3, 0.4
    item.set_xdata(sequence(stack + 2))
    is_told(stack[2] + 2, before + 1)
    assert not [data for data, _ in told[before:-1] if not np.array_equal(data, stack[2] + 2)]
    displayed.close()
    before = len(told)
    item.set_xdata(sequence(stack + 3))
    for _ in range(10):
        document.periodic()
        time.sleep(0.01)
    assert len(told) == before
