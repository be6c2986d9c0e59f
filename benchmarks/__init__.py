"""Ours beside its peers, in one run: the same weights, the same input, turn by turn.

``contest.py`` lets contestants take turns, each in a process of its own (``worker.py``), and
``report.py`` writes down what came out. The other modules each know one kind of contest; they offer
``add_arguments(parser)`` for their own options and ``compare(args)``, which returns what
``tools/benchmark.py`` prints: an object with ``text(markdown)`` and ``to_json()``.
"""
