"""What can go wrong with data, as one line for the person who can put it right."""

from __future__ import annotations

from blocks.errors import UserError


class DataError(UserError):
    """Data that is missing, unreadable, too small or impossible to store."""
