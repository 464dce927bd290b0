"""What begins runs: schedules by the clock, sensors by what they read.

Must not do the work of a run: that is ``ops``. Decisions are pure functions of ``racing``.
"""
