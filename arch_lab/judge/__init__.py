"""Judgement of records: statistics over seeds, pairs, crossovers. Pure functions; nothing here reads or writes a file."""
