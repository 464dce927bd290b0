"""Dagster, thin: ops that call the stages, jobs that wire the ops, resources that own the shared things.

What belongs here: turning a stage's value or error into outputs, metadata and log lines. What does not: SQL, HTTP,
arithmetic. No module here postpones its annotations: Dagster reads them.
"""
