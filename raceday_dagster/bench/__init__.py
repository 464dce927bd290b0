"""What a batch costs on this machine: ``raceday bench`` measures it, and compares it with the same batch run otherwise.

Must not be imported by anything that polls a race: it is for measuring, and needs the extra ``sandbox``.
"""
