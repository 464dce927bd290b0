"""``raceday up`` and ``raceday health``: the processes of a racing day, kept running and looked at from outside.

What belongs here: starting, watching and ending the code server, the daemon and the web UI. What does not: what they
do (``defs``, ``launcher``, ``webserver``), and the embedded server and the simulated API (``sandbox``).
"""
