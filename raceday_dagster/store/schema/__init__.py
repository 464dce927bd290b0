"""What the tables are: their description, their partitions by racing day, the migrations that bring a database there.

Must not read or write the rows of a race: that is ``store``.
"""
