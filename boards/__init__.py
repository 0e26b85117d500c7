"""Boards as data; `boards.catalogue.board(name)` finds one."""
