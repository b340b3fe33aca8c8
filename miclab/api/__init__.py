"""The Python functions and objects of `import miclab`. They do the work of the commands and give typed results.

`miclab` itself imports a name from here when it is first used.
"""
