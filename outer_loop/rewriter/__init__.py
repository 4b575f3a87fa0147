"""Writing new programs from evidence: operations, their proof, and who thinks of them.

Owns: `apply` (operations on a program's text), `verify` (whether a rewrite may run), `thompson`
(a linear model of gains on instructions), `offline` (the rewriter that needs no language model).
Does not own: running what is proposed, or the records (`inner_loop.proposal`).
"""
