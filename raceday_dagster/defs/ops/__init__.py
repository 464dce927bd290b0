"""The ops, a file for each thing they work on: a race, a batch, a day, its meetings, the housekeeping.

May import whatever ``defs`` may. Must not decide when a run begins: that is ``automation``.
"""
