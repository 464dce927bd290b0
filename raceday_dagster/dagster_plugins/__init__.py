"""What is plugged into Dagster in place of its parts: executor, storage, run coordinator, run launcher and its server.

The only folder that imports ``dagster._*``, and it imports nothing else of this package: each part works for any
Dagster project. ``run_preload`` names, as text, what the run workers of this one import.
"""
