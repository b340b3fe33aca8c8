"""A claim of one's own: fewer classes are learnt by heart sooner.

miclab study run own_study.yaml
miclab claims O1 --plugin own_claim.py --studies .
"""

from miclab.claims.evidence import grid
from miclab.claims.plots.figures import curves
from miclab.claims.registry import claim
from miclab.statistics.grid import mean, slope


@claim(
    "O1",
    "After 60 steps the fewer classes there are, the better they are learnt by heart.",
    paper="none: a question of ours",
    criterion=(
        "Slope of IWL on log2 K below 0, and IWL at 8 classes above 0.5, each with its whole 95 % interval (Student's "
        "t over seeds)."
    ),
    studies="own_study",
    figure=curves("own_study", x="K", scores="iwl icl"),
)
def o1(rows):
    """IWL against log2 K, and where it is easiest."""
    cells = grid(rows, "own_study", "K", "icl iwl")
    yield cells.condition(slope("iwl", "log2 K") < 0, "slope of IWL per doubling of K", "K is raised")
    yield cells.where(K=8).condition(mean("iwl") > 0.5, "IWL at K = 8", "classes are few")
    yield cells.comparison(mean("icl", K=128), "ICL at K = 128")
