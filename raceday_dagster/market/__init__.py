"""The pages people look at: what the market did, from the views of the database.

Only reads, and knows nothing of Dagster: ``web`` puts it beside Dagster's UI, ``raceday report`` into a file.
"""
