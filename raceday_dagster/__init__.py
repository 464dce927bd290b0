"""Follows a racing day: polls the NZ TAB API, computes where the money is flowing, stores it in PostgreSQL."""
