"""What the tables are: their migrations, their partitions by racing day, the check that a database is there.

Must not read or write the rows of a race: that is ``store``.
"""
