"""Stores and queries without waiting for each answer, from one memory for each of several users.

Run a server (`make serve`), then: python examples/pipeline.py [host:port]
"""

import asyncio
import sys
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import attractor

USERS = ("ada", "alan", "grace", "kurt")


def pictures(letters: str) -> Iterator[NDArray[np.uint8]]:
    """Letters as 28×28 images, dark at 0 and bright at 255."""
    for letter in letters:
        image = Image.new("L", (28, 28))
        ImageDraw.Draw(image).text((14, 14), letter, 255, ImageFont.load_default(20), anchor="mm")
        yield np.asarray(image)


async def remember(client: attractor.AsyncClient, user: str, letters: str) -> str:
    """Stores the letters, covers a quarter of each, and tells how many are recognised by what is recalled."""
    memory = await client.create_memory(f"users/{user}/letters", model="glyphs-28")
    stored = np.stack(list(pictures(letters)))
    async with memory.stream() as stream:
        async for _ in stream.store(iter(stored)):
            pass
        lower_right = (np.arange(28) >= 14)[:, None] & (np.arange(28) >= 14)
        cues = (np.where(lower_right, np.uint8(0), picture) for picture in stored)
        recalled = [recall.pattern async for recall in stream.query(cues)]
    distances = np.square(np.stack(recalled)[:, None] - stored[None] / 255).sum((2, 3))
    right = int((distances.argmin(1) == np.arange(len(stored))).sum())
    return f"{user}: {right} of {len(stored)} letters recalled with a quarter covered"


async def main(address: str) -> None:
    """All users at once; their requests travel together."""
    async with attractor.connect(address) as client:
        jobs = (remember(client, user, "ABDEFGHKLMNPRSTVXYZ") for user in USERS)
        for line in await asyncio.gather(*jobs):
            print(line)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "localhost:7171"))
