"""The domain: the records that stages hand to each other, and the rules of a racing day.

Must not import anything of this package but ``errors``, nor read a clock, the environment, the network or a database.
"""
