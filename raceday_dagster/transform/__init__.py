"""From what the API said to what is stored: calculation and nothing else.

May import ``racing`` and ``errors``. Must not read a clock, the environment, a file, the network or a database, nor
start a thread or a process, nor log.
"""
