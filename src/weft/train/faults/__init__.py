"""When one of several processes dies, hangs or goes wrong: noticed, named, reported; and made on purpose.

:mod:`guard` is what a session uses. :mod:`inject` is a tool for tests.
"""
