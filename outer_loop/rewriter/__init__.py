"""Writing new programs from evidence: operations, their proof, and who thinks of them.

Owns: `apply` (operations on a program's text), `verify` (whether a rewrite may run), `thompson`
(a linear model of gains on instructions), `offline` (the rewriter that needs no language model),
`model` (the one that is a language model; what it is shown: `model_prompt`, `table`; what it says:
`model_reply`, `answers`), `seam` (what every rewriter is given) and `choice` (which one is meant).
Does not own: running what is proposed, or the records (`inner_loop.proposal`).
"""
