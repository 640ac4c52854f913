"""Memories of texts for agents, in a server of Attractor.

`AgentMemory` remembers, recalls and forgets texts; `SyncAgentMemory` does without async. `attractor_agents.mcp` serves
one to models, `attractor_agents.langgraph` and `attractor_agents.langchain` to agents made with these.
"""

from attractor_agents._files import EncoderMissing
from attractor_agents.encoders import Encoder, from_function, from_langchain, from_openai
from attractor_agents.memory import AgentMemory
from attractor_agents.minilm import MiniLM
from attractor_agents.static import Static
from attractor_agents.sync import SyncAgentMemory
from attractor_agents.types import Hit, Neighbour, Note, Recalled, Remembered, Seen

__all__ = [
    "AgentMemory",
    "Encoder",
    "EncoderMissing",
    "Hit",
    "MiniLM",
    "Neighbour",
    "Note",
    "Recalled",
    "Remembered",
    "Seen",
    "Static",
    "SyncAgentMemory",
    "from_function",
    "from_langchain",
    "from_openai",
]

for _name in __all__:
    if isinstance(_value := globals()[_name], type):
        _value.__module__ = __name__  # where users find it
