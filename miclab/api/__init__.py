"""The Python functions and objects behind `import miclab`: what the commands do, as typed results.

`miclab` itself is the face, which imports a name from here when it is first used.
"""
