"""Images: pages as the backend store keeps them."""

from collections.abc import Sequence

from attractor_server.engine.pages.bank import Bank
from attractor_server.memories.page import Page
from attractor_server.memories.records import Image


def export_images(bank: Bank, pages: Sequence[Page], version: int) -> Sequence[Image]:
    """Return the images of these pages after that version of their memory."""
    images = []
    for page in pages:
        for error in bank.bring([page]).values():
            raise error
        images.append(Image(page=page.number, version=version, content=bank.image(page)))
    return images
