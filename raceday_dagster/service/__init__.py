"""``raceday up`` and ``raceday health``: the processes of a racing day, kept running and looked at from outside.

Must not do what those processes do (``defs``, ``dagster_plugins``, ``web``). May use the ``sandbox``, when a day is
simulated.
"""
