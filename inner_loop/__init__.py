"""One run: a researcher works under a program until its budget is spent.

Read `loop.py` first; everything else serves it. Imports nothing from `analysis` or `outer_loop`.
"""
