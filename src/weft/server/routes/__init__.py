"""The routes, a file for each group: every ``add(app, front)`` adds its own."""
