"""Demo of texts: an agent's memory that is told, asked, made to forget, and branched."""

import json
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import click

from attractor_server.cluster.serve import run_server
from attractor_server.config import Settings
from attractor_server.errors import SettingsError

if TYPE_CHECKING:
    from attractor_agents import AgentMemory

TOLD = (
    "Ada flies to Oslo on Tuesday",
    "Bob is allergic to peanuts",
    "The key is under the mat",
    "The printer on the third floor is broken",
    "Grace likes her coffee without sugar",
    "The meeting about the budget is on Thursday at ten",
)
ASKED = {
    "When does Ada fly to Oslo?": TOLD[0],
    "What is Bob allergic to?": TOLD[1],
    "Where is the key?": TOLD[2],
    "How does Grace like her coffee?": TOLD[4],
}
NEVER_TOLD = ("Who painted the Mona Lisa?", "How tall is Mount Everest?")
FORGOTTEN = "What is Bob allergic to?"
UNKNOWN = "nothing is remembered about this"


def run_text_demo() -> None:
    """Print a conversation with a memory, and end with one line of JSON on stdout.

    Raises:
        SettingsError: attractor-agents is not installed.
    """
    if any(find_spec(name) is None for name in ("attractor_agents", "onnxruntime", "tokenizers")):
        raise SettingsError("--text: what makes vectors of texts is missing; pip install 'attractor-agents[text]'")
    click.echo("Starting a server on this machine")
    with (
        tempfile.TemporaryDirectory() as folder,
        run_server(Settings(shards=1, port=0, data_dir=Path(folder))) as cluster,
    ):
        anyio.run(_hold_conversation, cluster.addresses[0])


async def _hold_conversation(address: str) -> None:
    from attractor_agents import AgentMemory  # noqa: PLC0415 - another distribution

    async with AgentMemory.connect(address, space="demo/agent") as memory:
        for text in TOLD:
            await memory.remember(text)
            click.echo(f"  told     {text}")
        right = [await _ask(memory, question) == text for question, text in ASKED.items()]
        unknown = [await _ask(memory, question) == UNKNOWN for question in NEVER_TOLD]
        await memory.checkpoint("before")
        branch = await memory.branch("trial")
        click.echo(f"  branched as {branch.space}, and there made to forget about Bob")
        await branch.forget(text=ASKED[FORGOTTEN])
        forgotten = await _ask(branch, FORGOTTEN) == UNKNOWN
        click.echo("  outside of the branch")
        kept = await _ask(memory, FORGOTTEN) == ASKED[FORGOTTEN]
        counts = {"told": len(TOLD), "asked": len(ASKED), "right": sum(right)}
        flags = {"unknown": sum(unknown), "forgotten_in_branch": forgotten, "kept_outside": kept}
        click.echo(json.dumps({**counts, **flags}))


async def _ask(memory: "AgentMemory", question: str) -> str:
    recalled = await memory.recall(question, k=1)
    answer = recalled.hits[0].text if recalled.known else UNKNOWN
    click.echo(f"  asked    {question:36} {answer}  (known: {recalled.probability:.2f})")
    return answer
