"""From what the API said to what will be stored: pure calculation, and the processes it runs in.

Nothing here reads the network, the database, a clock or the environment. ``race.transform_race`` is the calculation;
``workers.TransformWorkers`` runs it in processes of their own.
"""
