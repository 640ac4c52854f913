"""Notes with payloads: asked by half of an embedding, the memory completes it and hands back what it was stored with.

Start a server first: `attractor serve`.
"""

import asyncio
import sys

import numpy as np
from numpy.typing import NDArray

import attractor

NOTES = ["buy bread", "call Ada on Monday", "the key is under the mat", "water the plants"]


def embedded(count: int) -> NDArray[np.float32]:
    """Stands in for a model of sentences: vectors of 384 entries, of length 1."""
    vectors = np.random.default_rng(0).standard_normal((count, 384), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


async def main(address: str) -> None:
    """Stores the notes, keeps the memory as it is, asks for each, searches, corrects one, and forgets one."""
    vectors = embedded(len(NOTES))
    async with attractor.connect(address) as client:
        memory = await client.create_memory("examples/notes", model="embedding-384")
        ids = [f"note-{n}" for n in range(len(NOTES))]
        await memory.store(vectors, ids=ids, payloads=[{"text": n} for n in NOTES], texts=NOTES)
        await memory.snapshot("before-asking")
        cues = vectors.copy()
        cues[:, 192:] = np.nan  # half of each is missing; the other half is held
        recall = await memory.query(cues, match=True)
        assert recall.match is not None
        for name, payload, distance in zip(recall.match.id, recall.match.payload, recall.match.distance, strict=True):
            print(f"{name}: {payload['text']} (distance {distance:.2f})")
        again = await memory.store(vectors[0], ids="note-4", unless_similar=0.97)
        print(f"not stored: {again.existing} was there")
        found = await memory.search(vectors[3] + 0.02, words="plants mat", filter={"text": {"$exists": True}}, k=2)
        for hit in found.hits:
            print(f"{hit.id}: {hit.text} (meant with probability {hit.probability:.2f}, anything: {found.known:.2f})")
        later = "call Ada on Tuesday"
        await memory.store(vectors[1], ids="note-1", payloads={"text": later}, texts=later, on_conflict="replace")
        await memory.items.erase(where={"text": {"$contains": "bread"}})
        async for item in memory.items.list():
            print(f"{item.id}: {item.payload['text']} (since {item.updated:%H:%M})")
        await client.delete_memory("examples/notes")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "localhost:7171"))
