"""Programs that put one order after another to a client, each in a process of its own with the client's packages.

An order is a line of JSON on stdin, an outcome a line on stdout. A program gets Penstock's URL as its argument, and
says {} once it has imported what it needs. The tool does nothing but note that it ran.
"""
