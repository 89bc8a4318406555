"""Helpers for tests: of this project and of those who use it. Nothing is imported from here."""

from __future__ import annotations
