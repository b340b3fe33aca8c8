"""Ways out to other tools, and in from the released code of the paper's authors."""
