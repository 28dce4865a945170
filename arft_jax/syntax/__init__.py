"""How a policy writes tool calls and answers: the paper's tags, or the Hermes form of Qwen's chat template.

A syntax says which strings end a turn, reads a turn's text, writes calls and answers (for recorded chains), and frames
the tools' part of the system prompt and the tools' replies. It is made from the tools that a run offers.
"""
