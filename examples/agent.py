"""An agent's memory of a conversation: told, asked, corrected, tried in a branch, and made to forget.

Start a server first: `attractor serve`. It needs `attractor-agents[text]`, and no model of language.
"""

import asyncio
import sys

from attractor_agents import AgentMemory

TOLD = (
    "Ada flies to Oslo on Tuesday",
    "Bob is allergic to peanuts",
    "The key is under the mat",
    "Grace likes her coffee without sugar",
)
ASKED = ("When does Ada fly to Oslo?", "What is Bob allergic to?", "Who painted the Mona Lisa?")


async def answer(memory: AgentMemory, question: str) -> str:
    """Stands in for a model of language: says what is remembered, or that nothing is."""
    recalled = await memory.recall(question, k=1)
    return recalled.hits[0].text if recalled.known else "I know nothing about this"


async def main(address: str) -> None:
    """Holds the conversation."""
    async with AgentMemory.connect(address, space="examples/agent") as memory:
        await memory.delete()
        for text in TOLD:
            await memory.remember(text, metadata={"from": "chat"})
        again = await memory.remember("the key is under the mat")
        print(f"told twice: {'stored' if again.new else 'known already'}")
        for question in ASKED:
            print(f"{question} {await answer(memory, question)}")
        await memory.checkpoint("before")
        flight = (await memory.recall(ASKED[0], k=1)).hits[0]
        await memory.update(flight.id, text="Ada flies to Oslo on Friday")
        print(f"corrected: {await answer(memory, ASKED[0])}")
        trial = await memory.branch("trial")
        await trial.forget(text="Bob is allergic to peanuts")
        print(f"in a branch that forgot: {await answer(trial, ASKED[1])}")
        print(f"and outside of it: {await answer(memory, ASKED[1])}")
        await memory.rollback("before")
        print(f"rolled back: {await answer(memory, ASKED[0])}")
        await trial.delete()
        await memory.delete()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "localhost:7171"))
